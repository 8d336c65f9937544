#!/bin/sh
# Makes "docker compose" run Debian's docker-compose.
if [ "$1" = docker-cli-plugin-metadata ]; then
	echo '{"SchemaVersion":"0.1.0","Vendor":"Debian","Version":"1.29","ShortDescription":"Docker Compose"}'
	exit
fi
shift
exec docker-compose "$@"
