#!/bin/sh
# espeak-ng or flite from where bundle.sh put them, with the libraries they were built for.
place=$(dirname "$(dirname "$(readlink -f "$0")")")
export LD_LIBRARY_PATH="$place/lib" ESPEAK_DATA_PATH="$place"
exec "$place/bin/$(basename "$0").real" "$@"
