// Runs before the page's own scripts: whatever goes to the loudspeaker is kept in `blocks` too, in its order.
(() => {
  const RECORDER = `
    registerProcessor("recorder", class extends AudioWorkletProcessor {
      process([[samples]]) {
        this.port.postMessage(samples ? samples.slice() : new Float32Array(128));
        return true;
      }
    })`;
  const { AudioWorkletNode } = window;
  const { connect } = AudioNode.prototype;
  const recorders = new WeakMap();
  window.blocks = [];

  async function recorderOf(context, worklet) {
    await worklet.addModule(URL.createObjectURL(new Blob([RECORDER], { type: "text/javascript" })));
    const recorder = new AudioWorkletNode(context, "recorder");
    recorder.port.onmessage = ({ data }) => window.blocks.push(data);
    connect.call(recorder, context.destination);
    return recorder;
  }

  // The page may be kept from it by another script that runs before it; the recorder is not.
  const { get: workletOf } = Object.getOwnPropertyDescriptor(BaseAudioContext.prototype, "audioWorklet");
  window.AudioContext = class extends AudioContext {
    constructor(options) {
      super(options);
      recorders.set(this, recorderOf(this, workletOf.call(this)));
    }
  };
  AudioNode.prototype.connect = function (target, ...more) {
    if (target instanceof AudioDestinationNode) {
      recorders.get(this.context).then((recorder) => {
        connect.call(this, recorder);
        window.isRecording = true;
      });
    }
    return connect.call(this, target, ...more);
  };
})();
