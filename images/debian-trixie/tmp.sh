systemctl --quiet mask tmp.mount
