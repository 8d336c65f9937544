# Makes save.tar in the working directory: a container image, tiny:1, of
# nothing but busybox.
set -eu
mkdir -p root/bin
cp /bin/busybox root/bin/busybox
for name in sh cat echo hostname sync httpd wget true; do ln -sf busybox root/bin/$name; done
tar -C root --owner 0 --group 0 -cf layer.tar .
sum=$(sha256sum layer.tar)
cat >config.json <<END
{"os": "linux", "architecture": "amd64", "config": {"Entrypoint": ["/bin/sh"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:${sum%% *}"]}}
END
echo '[{"Config": "config.json", "RepoTags": ["tiny:1"], "Layers": ["layer.tar"]}]' >manifest.json
tar -cf save.tar manifest.json config.json layer.tar
