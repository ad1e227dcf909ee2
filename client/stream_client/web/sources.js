/**
 * Where audio comes from, a microphone or a file, as a node of an AudioContext; and where it goes,
 * as samples for a WebSocket or as a track for WebRTC.
 */

/** Hertz that the server takes as samples; the first is tried first. */
const RATES = [16000, 48000, 44100, 24000, 8000];

/** No audio can be had; `help` says what the person can do. */
export class SourceError extends Error {
  constructor(message, help) {
    super(message);
    this.name = "SourceError";
    this.help = help;
  }
}

/** Open the microphone. */
export async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new SourceError(
      "This page may not use the microphone here.",
      "Browsers give it only to pages over HTTPS or from this very machine. Start the server " +
        "with --tls-self-signed (or --tls-cert and --tls-key) and open the page with https://, " +
        "or open http://127.0.0.1 on the machine that the server runs on. A file works anyway.",
    );
  }
  let stream;
  try {
    const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw explain(error);
  }
  const end = () => stream.getTracks().forEach((track) => track.stop());
  try {
    const context = await openContext((each) => each.createMediaStreamSource(stream));
    const node = context.createMediaStreamSource(stream);
    return new Source(context, node, { track: stream.getAudioTracks()[0], end });
  } catch (error) {
    end();
    throw error;
  }
}

/**
 * Open a file; it is heard while it is sent, at the pace of time.
 *
 * @param {Blob} file anything that this browser decodes
 */
export async function openFile(file) {
  const context = await openContext();
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    await context.close();
    throw new SourceError(
      "This browser cannot decode the file.",
      "Try WAV, MP3, M4A, Ogg or WebM.",
    );
  }
  const node = context.createBufferSource();
  node.buffer = buffer;
  node.connect(context.destination);
  return new Source(context, node, { play: () => node.start(), end: () => node.stop() });
}

/** A running source. */
export class Source {
  #end;
  #play;
  #track;

  constructor(context, node, { track = null, play = () => {}, end }) {
    this.context = context;
    this.node = node;
    this.#track = track;
    this.#play = play;
    this.#end = end;
    /** Resolves when a file has been played. */
    this.ended = new Promise((resolve) => node.addEventListener("ended", resolve));
  }

  /** Hertz of what {@link samples} gives. */
  get sampleRate() {
    return this.context.sampleRate;
  }

  /** Call `take(Int16Array)` with all that comes, one channel, about 50 ms at a time. */
  async samples(take) {
    if (!this.context.audioWorklet)
      throw new SourceError(
        "Over plain HTTP this browser gives a page no samples.",
        "Choose WebRTC, or open the page over HTTPS.",
      );
    await this.context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
    const tap = new AudioWorkletNode(this.context, "pcm-tap", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    tap.port.onmessage = (event) => take(event.data);
    this.node.connect(tap);
  }

  /** Return a track of what comes. */
  track() {
    if (this.#track) return this.#track;
    const destination = this.context.createMediaStreamDestination();
    this.node.connect(destination);
    return destination.stream.getAudioTracks()[0];
  }

  /** Return a function that gives the loudness now, 0 to 1. */
  meter() {
    const analyser = this.context.createAnalyser();
    analyser.fftSize = 1024;
    this.node.connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    return () => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, each) => sum + each * each, 0) / samples.length;
      return Math.min(1, Math.max(0, 1 + Math.log10(power + 1e-6) / 6));
    };
  }

  /** Begin; a microphone has begun by itself. */
  async play() {
    await this.context.resume();
    this.#play();
  }

  async close() {
    try {
      this.#end();
    } catch {
      // A file that was never played cannot be stopped.
    }
    if (this.context.state !== "closed") await this.context.close();
  }
}

/** Return a context at a rate that the server takes and this browser can connect `probe` to. */
async function openContext(probe = () => {}) {
  for (const sampleRate of [...RATES.slice(0, 1), undefined, ...RATES.slice(1)]) {
    let context;
    try {
      context = new AudioContext({ sampleRate });
      probe(context); // Firefox: a microphone at another rate than the context is refused
      if (RATES.includes(context.sampleRate)) return context;
    } catch {
      // the next one
    }
    await context?.close();
  }
  throw new SourceError("This browser offers no sample rate that the server takes.", "");
}

function explain(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return new SourceError(
        "The microphone was not allowed.",
        "Allow it in the browser, mostly behind the icon left of the address, and press Start again.",
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return new SourceError("No microphone was found.", "Plug one in, or choose a file.");
    case "NotReadableError":
      return new SourceError(
        "The microphone is in use.",
        "Close the program that uses it, and press Start again.",
      );
    default:
      return new SourceError(`The microphone cannot be used: ${error.message}`, "");
  }
}
