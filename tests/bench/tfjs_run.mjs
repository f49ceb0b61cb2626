// Runs a TensorFlow.js graph on raw frames, for tests/bench/ported.py.
//
//   node tfjs_run.mjs model.json frames.bin answers.bin FRAMES HEIGHT WIDTH [SCALE]
//
// frames.bin: uint8 RGB, given as integers or, divided by SCALE, as floats; answers.bin: float32, the graph's one output for each frame. Needs, in a
// node_modules above this file: @tensorflow/tfjs-core, -converter and -backend-wasm.
import * as tf from '@tensorflow/tfjs-core';
import {loadGraphModel} from '@tensorflow/tfjs-converter';
import '@tensorflow/tfjs-backend-wasm';
import fs from 'fs';

const [path, input, output, count, height, width, scale] = process.argv.slice(2);
await tf.setBackend('wasm');
await tf.ready();
const {modelTopology, weightsManifest, signature} = JSON.parse(fs.readFileSync(path));
const bytes = fs.readFileSync(path.replace(/json$/, 'bin'));
const model = await loadGraphModel({
  load: async () => ({
    modelTopology, signature,
    weightSpecs: weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  }),
});
const shape = [1, +height, +width, 3];
const size = height * width * 3;
const frames = fs.readFileSync(input);
const answers = [];
for (let i = 0; i < +count; i++) {
  const bytes = frames.subarray(i * size, (i + 1) * size);
  const frame = scale
    ? tf.tensor4d(Float32Array.from(bytes, (v) => v / +scale), shape)
    : tf.tensor4d(Int32Array.from(bytes), shape, 'int32');
  const answer = await model.executeAsync(frame);
  answers.push(Buffer.from(new Float32Array(await answer.data()).buffer));
}
fs.writeFileSync(output, Buffer.concat(answers));
