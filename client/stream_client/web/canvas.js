/** Shows a canvas as it was denoised: plays its steps, or the one that the slider is at. */

const STEP_MS = 140;

export class CanvasView {
  #box;
  #label;
  #slider;
  #steps = [];
  #timer = 0;

  /**
   * @param {HTMLElement} box the text
   * @param {HTMLElement} label which step it is
   * @param {HTMLInputElement} slider chooses one
   */
  constructor(box, label, slider) {
    this.#box = box;
    this.#label = label;
    this.#slider = slider;
    slider.addEventListener("input", () => {
      clearInterval(this.#timer);
      this.#draw(Number(slider.value));
    });
  }

  /** Play the canvas after each step of one decode. */
  show(steps) {
    // A draft that was right at once shows nothing: the one before stays.
    if (!steps.length || (steps.length === 1 && this.#steps.length > 1)) return;
    clearInterval(this.#timer);
    this.#steps = steps.map((step) => step.split(/(?<=\s)/));
    this.#slider.max = steps.length - 1;
    this.#slider.disabled = steps.length < 2;
    let at = 0;
    this.#draw(at);
    this.#timer = setInterval(() => {
      at += 1;
      if (at < this.#steps.length) this.#draw(at);
      else clearInterval(this.#timer);
    }, STEP_MS);
  }

  #draw(at) {
    const before = at ? this.#steps[at - 1] : [];
    this.#box.replaceChildren(
      ...this.#steps[at].map((word, place) => {
        if (at && before[place] === word) return document.createTextNode(word);
        const mark = document.createElement("mark");
        mark.textContent = word;
        return mark;
      }),
    );
    this.#slider.value = at;
    this.#label.textContent = `step ${at + 1} of ${this.#steps.length}`;
  }
}
