#!/bin/sh
# Makes a bare Debian host a minion. salt-cloud (driver saltify) copies it there beside the minion's
# configuration and keys, and runs it as root:
#
#   deploy.sh [FOLDER]     FOLDER: of wheels on the host, where it reaches no package index
#
# Run again it finishes what was broken off. It needs python3 with venv, and systemd.
set -eu
umask 022
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
salt=/opt/salt
# The minion's private key is beside this script: it goes, however this ends.
case $here in
*/.saltcloud-*) trap 'rm -rf "$here"' EXIT ;;
*) trap 'rm -f "$here/minion.pem"' EXIT ;;
esac
trap 'exit 1' HUP INT TERM

if ! "$salt/bin/salt-minion" --version >/dev/null 2>&1; then
    rm -rf "$salt"
    python3 -m venv "$salt"
    set -- ${1:+--no-index "--find-links=$1"}
    # Not compiled: what runs is, when it first does, and a rebuild waits for less.
    "$salt/bin/pip" install --quiet --no-cache-dir --no-compile "$@" 'salt>=3006' 'pymongo>=4.6' pyyaml
fi
for command in salt-call salt-minion; do
    ln -sf "$salt/bin/$command" "/usr/local/bin/$command"
done

install -d -m 755 /etc/salt
install -d -m 700 /etc/salt/pki /etc/salt/pki/minion
install -m 640 "$here/minion" /etc/salt/minion
# A key of before, and a master of before, are of a stack that is lost.
rm -f /etc/salt/pki/minion/minion_master.pub
install -m 400 "$here/minion.pem" /etc/salt/pki/minion/minion.pem
install -m 644 "$here/minion.pub" /etc/salt/pki/minion/minion.pub

cat >/etc/systemd/system/salt-minion.service <<UNIT
[Unit]
Description=The Salt minion
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=all
KillMode=process
LimitNOFILE=16384
ExecStart=$salt/bin/salt-minion

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet salt-minion
systemctl restart salt-minion
