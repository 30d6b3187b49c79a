// Runs before the page's own scripts: what its AudioWorklet gives to the loudspeaker is kept in `blocks` too.
(() => {
  const RECORDER = `
    registerProcessor("recorder", class extends AudioWorkletProcessor {
      process([[samples]]) {
        if (samples) this.port.postMessage(samples.slice());
        return true;
      }
    })`;
  const { AudioWorkletNode: Node } = window;
  const { addModule } = AudioWorklet.prototype;
  window.blocks = [];
  AudioWorklet.prototype.addModule = async function (url) {
    await addModule.call(this, URL.createObjectURL(new Blob([RECORDER], { type: "text/javascript" })));
    await addModule.call(this, url);
  };
  window.AudioWorkletNode = class extends Node {
    constructor(context, name, options) {
      super(context, name, options);
      const recorder = new Node(context, "recorder");
      recorder.port.onmessage = ({ data }) => window.blocks.push(data);
      this.connect(recorder).connect(context.destination);
    }
  };
})();
