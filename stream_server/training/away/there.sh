#!/bin/sh
# On the training machine: there.sh COMMAND, in the folder to which files of bundle.sh have come.
#
#   begin            unpacks what is there, starts what needs it
#   train MINUTES    waits for the voices, then trains on every GPU, behind this
#   wait SECONDS     until the checkpoint is there, and tells the losses
#
# begin is called again as more files come: voices.tar.xz, say.tar.xz, texts.tar.xz, source.tar.xz and
# the wheels first, then the rest in any order. SAID is how many minutes Kokoro speaks.
set -eu
work=${WORK:-$HOME/diffscribe-training}
mkdir -p "$work/pack" "$work/start" "$work/kokoro"
export PATH="$work/say/bin:$PATH" PYTHONPATH="$work/source" PYTHONWARNINGS=ignore HF_HUB_OFFLINE=1
recipe=$work/source/recipe.toml
cores=$(nproc)
few=$(((cores + 4) / 5)) # for what needs no GPU
gpus=$(nvidia-smi -L | wc -l)

train() { # NAME ARGUMENT... in the background, also after this shell
    name=$1
    shift
    setsid nohup python3 -c "from stream_server.training.cli import app; app()" "$@" \
        >"$work/$name.log" 2>&1 </dev/null &
}

tell() {
    for name in "$@"; do
        [ ! -e "$work/$name.log" ] || tail -n 3 "$work/$name.log" | cut -c 1-400
    done
}

begin() {
    if [ -d wheels ]; then
        python3 -m pip install -q --no-index --no-deps wheels/*.whl
        rm -r wheels
    fi
    for file in voices say texts source; do
        [ ! -e $file.tar.xz ] || { tar -C "$work" -xJf $file.tar.xz && rm $file.tar.xz; }
    done
    for file in pack-*.bin; do [ ! -e "$file" ] || mv "$file" "$work/pack/"; done
    for file in model-*.safetensors; do [ ! -e "$file" ] || mv "$file" "$work/start/"; done
    for file in kokoro.onnx.xz.*; do [ ! -e "$file" ] || mv "$file" "$work/"; done
    if [ -d "$work/source" ] && [ ! -e "$work/synthetic.log" ]; then
        python3 -c "import stream_server.training.cli"
        train synthetic synthesise "$recipe" --data "$work/pack" --workers "$few"
    fi
    if [ -d "$work/source" ] && [ -e "$work/kokoro.onnx.xz.01" ] && [ ! -e "$work/kokoro.log" ]; then
        cat "$work"/kokoro.onnx.xz.* | xz -dc >"$work/kokoro/kokoro.onnx"
        train kokoro kokoro "$recipe" --data "$work/pack" --voices "$work/kokoro" \
            --devices "$(seq -f cuda:%g -s, 0 $((gpus - 1)))" \
            --workers $((cores - few)) --minutes "${SAID:-4.6}"
    fi
    sleep "${1:-0}"
    tell synthetic kokoro
    ls "$work/pack" "$work/start" "$work/kokoro"
}

run() {
    while pgrep -f "training.cli import app.* --data $work/pack" >/dev/null; do sleep 1; done
    tell synthetic kokoro
    for place in $(seq 0 $((gpus - 1))); do
        CUDA_VISIBLE_DEVICES=$place train "run-$place" run "$recipe" --data "$work/pack" \
            --output "$work/run" --start "$work/start" --minutes "$1" --save-every 100000 \
            --workers 14 --peers "$gpus" --place "$place"
    done
    sleep 90
    tell run-0
}

wait_for() {
    end=$(($(date +%s) + $1))
    while [ "$(date +%s)" -lt $end ] && [ ! -e "$work/run/checkpoint/config.json" ]; do sleep 1; done
    tell run-0
}

case $1 in
    begin) begin "${2:-0}" ;;
    train) run "$2" ;;
    wait) wait_for "$2" ;;
    *)
        echo "there.sh begin | train MINUTES | wait SECONDS" >&2
        exit 2
        ;;
esac
