// The 3D view of one scan: the scan, the registration, and the error on it. WebGL 2, nothing else.
"use strict";

const view = { yaw: 0, pitch: 0, zoom: 1, pan: [0, 0], layer: "error", layers: {} };
const CLAY = [219, 212, 201], UNSEEN = [186, 190, 196], SCAN_GREY = [150, 158, 172];
const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec3 colour;
uniform mat4 projection; uniform mat3 turn; uniform vec3 centre; uniform vec3 place; uniform float dot_size;
out vec3 shown_normal; out vec3 shown_colour;
void main() {
  gl_Position = projection * vec4(turn * (position - centre) + place, 1.0);
  gl_PointSize = dot_size;
  shown_normal = turn * normal; shown_colour = colour;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 shown_normal; in vec3 shown_colour; uniform float flat_light; out vec4 colour;
void main() {
  float size = length(shown_normal);
  vec3 n = size > 0.1 ? shown_normal / size : vec3(0.0, 0.0, 1.0);
  if (!gl_FrontFacing) n = -n;
  float light = 0.16 + 0.66 * max(dot(n, normalize(vec3(-0.25, 0.6, 0.75))), 0.0) + 0.2 * max(n.z, 0.0);
  colour = vec4(shown_colour * mix(light, 1.0, flat_light), 1.0);
}`;

const byId = (name) => document.getElementById(name);

nphm.start = async function () {
  const id = decodeURIComponent(location.hash.slice(1));
  byId("title").textContent = id || "no scan";
  byId("back").href = `index.html#/scan/${id}`;
  document.title = `3D: ${id}`;
  document.documentElement.style.setProperty("--error-map", `linear-gradient(to right, ${nphm.index.colours.join(",")})`);
  byId("largest").textContent = `${nphm.index.colour_max_mm} mm or more`;
  if (!/^[A-Za-z0-9-]+\/[A-Za-z0-9-]+$/.test(id)) return view.fail("The address names no scan.");
  try {
    await Promise.all([nphm.load("data/topology.js"), nphm.load(`scans/${id}/quality_3d.js`)]);
  } catch {
    return view.fail("There is no 3D view of this scan.");
  }
  const [parts, faces] = await Promise.all([unpack.head(view.head), unpack.topology(view.topology)]);
  parts.registration.faces = faces;
  view.begin(parts);
  document.documentElement.dataset.ready = "yes";
};

nphm.head = (data) => { view.head = data; };
nphm.topology = (data) => { view.topology = data; };
view.fail = (text) => { byId("said").textContent = text; };

view.begin = function (parts) {
  const gl = byId("canvas").getContext("webgl2", { antialias: true });
  if (!gl) return view.fail("This browser shows no WebGL 2; the pictures of this scan are in the gallery.");
  view.gl = gl;
  view.program = view.link(gl);
  const registration = parts.registration, stops = nphm.index.map;
  const error = new Uint8Array(3 * registration.error.length), clay = new Uint8Array(error.length);
  registration.error.forEach((step, k) => {
    error.set(step === 255 ? UNSEEN : stops[Math.round(step / 254 * (stops.length - 1))], 3 * k);
    clay.set(CLAY, 3 * k);
  });
  view.frame(registration.positions);
  const add = (name, label, meshes) => { view.layers[name] = { label, meshes }; };
  const withError = view.upload(registration, error, 0.25);
  add("error", "registration, error", [withError]);
  add("clay", "registration", [view.upload(registration, clay, 0)]);
  if (parts.scan) {
    const n = parts.scan.positions.length / 3;
    const grey = new Uint8Array(3 * n).map((_, k) => SCAN_GREY[k % 3]);
    const scan = view.upload(parts.scan, parts.scan.colours || grey, parts.scan.colours ? 0.45 : 0);
    const plain = view.upload(parts.scan, grey, 0);
    add("scan", "scan", [scan]);
    add("both", "both", [plain, view.upload(registration, clay, 0)]);
  }
  view.controls();
  view.draw();
};

view.link = function (gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  return program;
};

view.frame = function (positions) {
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  for (let k = 0; k < positions.length; k++) {
    low[k % 3] = Math.min(low[k % 3], positions[k]);
    high[k % 3] = Math.max(high[k % 3], positions[k]);
  }
  view.centre = low.map((value, k) => (value + high[k]) / 2);
  view.radius = Math.hypot(...low.map((value, k) => (high[k] - value) / 2));
};

view.upload = function (mesh, colours, flat) {
  const gl = view.gl, array = gl.createVertexArray(), isCloud = !mesh.faces.length;
  gl.bindVertexArray(array);
  const normals = unpack.normals(mesh.positions, mesh.faces);
  for (const [name, data, kind, scaled] of [["position", mesh.positions, gl.FLOAT, false], ["normal", normals, gl.FLOAT, false],
    ["colour", colours, gl.UNSIGNED_BYTE, true]]) {
    const at = gl.getAttribLocation(view.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 3, kind, scaled, 0, 0);
  }
  if (!isCloud) {
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.faces, gl.STATIC_DRAW);
  }
  gl.bindVertexArray(null);
  const kind = mesh.faces.BYTES_PER_ELEMENT === 4 ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT;
  return { array, n: isCloud ? mesh.positions.length / 3 : mesh.faces.length, isCloud, kind, flat };
};

view.draw = function () {
  const gl = view.gl, canvas = byId("canvas"), scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * scale);
  canvas.height = Math.round(canvas.clientHeight * scale);
  gl.viewport(0, 0, canvas.width, canvas.height);
  const back = getComputedStyle(canvas).backgroundColor.match(/[\d.]+/g).map((part) => part / 255);
  gl.clearColor(back[0], back[1], back[2], 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST);
  const half = Math.tan(0.3), aspect = canvas.width / canvas.height;
  const distance = 0.88 * view.radius / Math.min(half, half * aspect) / view.zoom;
  const near = distance / 50, far = distance * 4;
  const projection = [1 / (half * aspect), 0, 0, 0, 0, 1 / half, 0, 0, 0, 0, (far + near) / (near - far), -1,
    0, 0, 2 * far * near / (near - far), 0];
  const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
  const turn = [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy];
  const at = (name) => gl.getUniformLocation(view.program, name);
  gl.uniformMatrix4fv(at("projection"), false, projection);
  gl.uniformMatrix3fv(at("turn"), false, turn);
  gl.uniform3fv(at("centre"), view.centre);
  gl.uniform3f(at("place"), view.pan[0] * view.radius, view.pan[1] * view.radius, -distance);
  gl.uniform1f(at("dot_size"), 3 * scale);
  for (const mesh of view.layers[view.layer].meshes) {
    gl.uniform1f(at("flat_light"), mesh.isCloud ? 1 : mesh.flat);
    gl.bindVertexArray(mesh.array);
    if (mesh.isCloud) gl.drawArrays(gl.POINTS, 0, mesh.n);
    else gl.drawElements(gl.TRIANGLES, mesh.n, mesh.kind, 0);
  }
  // Its place stays, so that the picture keeps its size.
  byId("legend").style.visibility = view.layer === "error" ? "visible" : "hidden";
};

view.controls = function () {
  for (const [name, layer] of Object.entries(view.layers)) {
    const input = make("input", { type: "radio", name: "layer", value: name, checked: name === view.layer,
      on: { change: () => { view.layer = name; view.draw(); } } });
    byId("layers").append(make("label", {}, input, " ", layer.label));
  }
  const canvas = byId("canvas"), limit = (value) => Math.max(-1.5, Math.min(1.5, value));
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    const [dx, dy] = [event.movementX / canvas.clientHeight, event.movementY / canvas.clientHeight];
    if (event.shiftKey || event.buttons & 6) view.pan = [view.pan[0] + 2 * dx, view.pan[1] - 2 * dy];
    else { view.yaw += 4 * dx; view.pitch = limit(view.pitch + 4 * dy); }
    view.draw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.zoom = Math.max(0.3, Math.min(12, view.zoom * Math.exp(-event.deltaY / 700)));
    view.draw();
  }, { passive: false });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
    if (event.key in turns) { view.yaw += turns[event.key][0]; view.pitch = limit(view.pitch + turns[event.key][1]); }
    else if (event.key === "+" || event.key === "=") view.zoom *= 1.2;
    else if (event.key === "-") view.zoom /= 1.2;
    else if (event.key === "r") Object.assign(view, { yaw: 0, pitch: 0, zoom: 1, pan: [0, 0] });
    else if (event.key === "Escape") { location.href = byId("back").href; return; }
    else return;
    event.preventDefault();
    view.draw();
  });
  new ResizeObserver(view.draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", view.draw);
};
