// Meshes as nphm_core/report/head_3d.py packs them: zlib over differences, low bytes before high ones.
"use strict";

const unpack = {};

unpack.inflate = async function (text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// Gives n rows of so many columns, in row order, of numbers with so many bytes.
unpack.columns = function (from, n, columns, bytes) {
  const out = bytes === 1 ? new Uint8Array(n * columns) : bytes === 2 ? new Uint16Array(n * columns) : new Uint32Array(n * columns);
  for (let column = 0; column < columns; column++) {
    const start = from.at + column * n * bytes;
    let value = 0;
    for (let k = 0; k < n; k++) {
      for (let byte = 0; byte < bytes; byte++) value += from.bytes[start + byte * n + k] * 2 ** (8 * byte);
      value %= 2 ** (8 * bytes);
      out[k * columns + column] = value;
    }
  }
  from.at += n * columns * bytes;
  return out;
};

unpack.positions = function (from, part) {
  const steps = unpack.columns(from, part.n, 3, 2), out = new Float32Array(3 * part.n);
  for (let k = 0; k < steps.length; k++) out[k] = part.low[k % 3] + steps[k] / 65535 * part.size[k % 3];
  return out;
};

unpack.head = async function (data) {
  const from = { bytes: await unpack.inflate(data.data), at: 0 }, parts = {};
  for (const part of data.parts) {
    const mesh = { positions: unpack.positions(from, part) };
    if (part.name === "registration") mesh.error = unpack.columns(from, part.n, 1, 1);
    else {
      mesh.faces = unpack.columns(from, part.n_faces, 3, 2);
      if (part.coloured) mesh.colours = unpack.columns(from, part.n, 3, 1);
    }
    parts[part.name] = mesh;
  }
  return parts;
};

unpack.topology = async (data) =>
  unpack.columns({ bytes: await unpack.inflate(data.data), at: 0 }, data.n_faces, 3, data.bytes);

unpack.normals = function (positions, faces) {
  const out = new Float32Array(positions.length), p = positions;
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const ux = p[b] - p[a], uy = p[b + 1] - p[a + 1], uz = p[b + 2] - p[a + 2];
    const vx = p[c] - p[a], vy = p[c + 1] - p[a + 1], vz = p[c + 2] - p[a + 2];
    const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
    for (const k of [a, b, c]) { out[k] += x; out[k + 1] += y; out[k + 2] += z; }
  }
  for (let k = 0; k < out.length; k += 3) {
    const length = Math.hypot(out[k], out[k + 1], out[k + 2]) || 1;
    out[k] /= length; out[k + 1] /= length; out[k + 2] /= length;
  }
  return out;
};
