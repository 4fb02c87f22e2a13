#!/bin/sh
# Installs library, header and pkg-config file: install.sh PREFIX [DIRECTORY WITH libguesttask.so]
set -eu
prefix=${1:?usage: install.sh PREFIX [BUILD DIRECTORY]}
here=$(dirname "$0")
built=${2:-$here/../../target/release}
mkdir -p "$prefix/lib/pkgconfig" "$prefix/include"
install -m 755 "$built/libguesttask.so" "$prefix/lib/"
install -m 644 "$here/include/guest_task.h" "$prefix/include/"
sed "s|@PREFIX@|$prefix|" "$here/guesttask.pc.in" > "$prefix/lib/pkgconfig/guesttask.pc"
