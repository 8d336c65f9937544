package daemon

import (
	"context"
	"net/http"

	"banger/internal/api"
	"banger/internal/progress"
)

func (s *Server) vmRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/vms", s.answer(func(*http.Request) (any, error) { return s.VMs.List(), nil }))
	mux.Handle("GET /v1/vms/{ref}", s.answer(func(r *http.Request) (any, error) { return s.VMs.Get(r.PathValue("ref")) }))
	mux.Handle("PATCH /v1/vms/{ref}", s.answer(func(r *http.Request) (any, error) {
		var request api.SetVM
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		return s.VMs.Set(r.Context(), r.PathValue("ref"), request)
	}))
	mux.Handle("DELETE /v1/vms/{ref}", s.answer(func(r *http.Request) (any, error) {
		var request api.DeleteVM
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		return nil, s.VMs.Delete(r.Context(), r.PathValue("ref"), request)
	}))
	mux.Handle("POST /v1/vms/{ref}/kill", s.answer(func(r *http.Request) (any, error) {
		return s.VMs.Kill(r.Context(), r.PathValue("ref"))
	}))
	mux.Handle("GET /v1/vms/{ref}/ports", s.answer(func(r *http.Request) (any, error) {
		return s.ports(r.Context(), r.PathValue("ref"))
	}))
	mux.Handle("GET /v1/vms/{ref}/stats", s.answer(func(r *http.Request) (any, error) {
		return s.VMs.Stats(r.Context(), r.PathValue("ref"))
	}))
	mux.Handle("POST /v1/vms", s.events(func(ctx context.Context, _ *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.CreateVM
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return s.VMs.Create(ctx, request, report)
	}))
	mux.Handle("POST /v1/vms/{ref}/start", s.events(func(ctx context.Context, r *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.StartVM
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return s.VMs.StartOn(ctx, r.PathValue("ref"), request, report)
	}))
	mux.Handle("POST /v1/vms/{ref}/stop", s.events(func(ctx context.Context, r *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.StopVM
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return s.VMs.Stop(ctx, r.PathValue("ref"), request, report)
	}))
	mux.Handle("POST /v1/vms/{ref}/commit", s.events(func(ctx context.Context, r *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.Commit
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return s.Commit(ctx, r.PathValue("ref"), request, report)
	}))
	mux.HandleFunc("GET /v1/vms/{ref}/agent", s.agent)
	mux.HandleFunc("GET /v1/vms/{ref}/hold", s.hold)
	mux.HandleFunc("GET /v1/vms/{ref}/logs", s.logs)
}

func catalogRoutes[T any](s *Server, mux *http.ServeMux, noun string, catalog Catalog[T], available func(*http.Request) bool) {
	mux.Handle("GET /v1/"+noun, s.answer(func(r *http.Request) (any, error) { return catalog.List(available(r)) }))
	mux.Handle("GET /v1/"+noun+"/{name}", s.answer(func(r *http.Request) (any, error) { return catalog.Get(r.PathValue("name")) }))
	mux.Handle("DELETE /v1/"+noun+"/{name}", s.answer(func(r *http.Request) (any, error) {
		return nil, catalog.Delete(r.Context(), r.PathValue("name"))
	}))
	mux.Handle("POST /v1/"+noun+"/pull", s.events(func(ctx context.Context, _ *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.Pull
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return catalog.Pull(ctx, request, report)
	}))
	mux.Handle("POST /v1/"+noun+"/available", s.events(func(ctx context.Context, _ *http.Request, _ []byte, report progress.Func) (any, error) {
		return catalog.Available(ctx, report)
	}))
	mux.Handle("POST /v1/"+noun+"/import", s.events(func(ctx context.Context, _ *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.Import
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return catalog.Import(ctx, request, report)
	}))
	mux.Handle("POST /v1/"+noun+"/{name}/export", s.events(func(ctx context.Context, r *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.Export
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return catalog.Export(ctx, r.PathValue("name"), request, report)
	}))
}

func (s *Server) imageRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/images/register", s.events(func(ctx context.Context, _ *http.Request, body []byte, report progress.Func) (any, error) {
		var request api.Register
		if err := decode(body, &request); err != nil {
			return nil, err
		}
		return s.Register(ctx, request, report)
	}))
	mux.Handle("POST /v1/images/prune", s.answer(func(r *http.Request) (any, error) {
		var request api.Prune
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		return s.PruneImages(r.Context(), request.DryRun)
	}))
}
