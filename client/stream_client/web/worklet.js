/** Runs in the audio thread: float blocks of 128 in, 16-bit pieces of about 50 ms out. */

class PcmTap extends AudioWorkletProcessor {
  #piece = new Int16Array(Math.round(sampleRate / 20));
  #filled = 0;

  process([channels]) {
    for (const sample of channels[0] ?? []) {
      this.#piece[this.#filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.#filled === this.#piece.length) {
        const full = this.#piece;
        this.#piece = new Int16Array(full.length);
        this.#filled = 0;
        this.port.postMessage(full, [full.buffer]);
      }
    }
    return true;
  }
}

registerProcessor("pcm-tap", PcmTap);
