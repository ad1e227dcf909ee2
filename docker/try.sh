#!/bin/sh
# Builds the image from nothing and tries it: `docker/try.sh [cpu|cuda]`, as root on Debian.
#
# No daemon, no base image from a registry: mmdebstrap makes a clean Debian, buildah carries out the
# Dockerfile on it as it is written, podman starts what came out. It needs
#
#   apt-get install mmdebstrap buildah podman crun
#
# and the network (Debian's packages, PyPI, PyTorch's index). All that it makes is in a temporary
# folder, or in KEEP=FOLDER, which a second run builds on. BUILD_OPTIONS are further options of
# `buildah build`, for mirrors: --build-arg TORCH_INDEX=URL, --volume /etc/pip.conf:/etc/pip.conf:ro.
# The cuda image is tried on the processor, if there is no GPU that podman hands on.
set -eu
cd "$(dirname "$0")/.."

target=${1:-cpu}
image=localhost/diffscribe:$target
place=${KEEP:-$(mktemp -d)}
name=diffscribe-try-$$
port=${PORT:-8123}
mkdir -p "$place"
place=$(realpath "$place")

say() { printf '\n== %s\n' "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }

store() { # buildah or podman, with everything in our folder
    program=$1; shift
    "$program" --root "$place/store" --runroot "$place/run" --storage-driver overlay "$@"
}

engine() { # podman; where the machine has cgroups of version 1, in a view of it that has version 2
    if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
        CONTAINERS_CONF=$place/containers.conf store podman --cgroup-manager cgroupfs "$@"
    else
        # shellcheck disable=SC2016  # for the inner shell
        CONTAINERS_CONF=$place/containers.conf unshare --mount sh -c '
            umount --recursive /sys/fs/cgroup
            mount -t cgroup2 none /sys/fs/cgroup
            exec podman --root "$0/store" --runroot "$0/run" --storage-driver overlay \
                --cgroup-manager cgroupfs "$@"' "$place" "$@"
    fi
}

run() { # a container as compose.yaml and the chart start it: read-only, no rights, not root
    engine run --rm --network host --ulimit host --cgroups=disabled \
        --read-only --read-only-tmpfs=false --tmpfs /tmp --cap-drop=ALL \
        --security-opt no-new-privileges --env DIFFSCRIBE_API_KEY=sesame "$@"
}

finish() {
    engine rm --force "$name" >/dev/null 2>&1 || true
    [ -n "${KEEP:-}" ] || rm -rf "$place"
}
trap finish EXIT

printf '[containers]\ndefault_ulimits = []\n' >"$place/containers.conf"

if ! store buildah inspect --type image debian:bookworm-slim >/dev/null 2>&1; then
    say "a clean Debian"
    mmdebstrap --quiet --variant=minbase bookworm "$place/debian.tar"
    container=$(store buildah from scratch)
    store buildah add --quiet "$container" "$place/debian.tar" /
    store buildah commit --quiet "$container" docker.io/library/debian:bookworm-slim
    store buildah rm "$container" >/dev/null
    rm "$place/debian.tar"
fi

say "the Dockerfile, target $target"
# "chroot": a build needs no cgroups and no network of its own.
# shellcheck disable=SC2086  # options, several
store buildah build --isolation chroot --layers --format docker --pull=never \
    -f docker/Dockerfile --target "$target" -t "$image" ${BUILD_OPTIONS:-} .
store buildah images "$image"

say "what is in it"
# shellcheck disable=SC2016  # for the shell inside
engine run --rm --ulimit host --cgroups=disabled --network host --entrypoint sh "$image" -c '
    id
    for tool in pip gcc cc make git curl; do command -v $tool || echo "no $tool"; done
    stream-server --version'

say "the server"
run --name "$name" --env "DIFFSCRIBE_PORT=$port" "$image" serve >"$place/server.log" 2>&1 &
server=$!
until grep -q 'ready on' "$place/server.log"; do
    kill -0 "$server" 2>/dev/null || { cat "$place/server.log"; fail "the server did not start"; }
    sleep 0.5
done
grep 'ready on' "$place/server.log"
engine exec "$name" python3 /usr/local/lib/diffscribe/health.py || fail "health check"
engine exec "$name" sh -c 'touch /x' 2>/dev/null && fail "the root can be written to"
engine exec "$name" sh -c 'touch /models/x && rm /models/x' || fail "/models cannot be written to"
engine exec "$name" cat /proc/1/status | grep -E '^(Uid|CapBnd|NoNewPrivs)'

say "the demo, by the client of the same image"
run --volume "$PWD/tests/data:/clips:ro" --entrypoint stream-client "$image" \
    file /clips/digits.opus --live --url "ws://127.0.0.1:$port/v1/stream" | tee "$place/heard"
# The model is trained anew now and then: most words, not each.
heard=0 spoken=0
# shellcheck disable=SC2013  # words are wanted
for word in $(cat tests/data/digits.txt); do
    spoken=$((spoken + 1))
    if tail -n 1 "$place/heard" | grep -qiw "$word"; then heard=$((heard + 1)); fi
done
[ $((heard * 10)) -ge $((spoken * 7)) ] || fail "$heard of $spoken words were heard"

say "the end"
engine stop --time 30 "$name"
wait "$server" || fail "the server ended with status $?"
tail -n 1 "$place/server.log"
say "passed"
