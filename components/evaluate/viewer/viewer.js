// The viewer: what is chosen, the panes that show it, and the controls, keys and gestures that change it.

const root = document.getElementById("view");
const dialog = root.closest("dialog"); // in a report
const scene = JSON.parse(document.getElementById("view-scene").textContent);
const ui = (name) => root.querySelector(`[data-ui="${name}"]`);
const each = (selector, action) => root.querySelectorAll(selector).forEach(action);

const titles = { a: scene.sides.a.label, b: scene.sides.b.label };
scene.methods.forEach(({ name, title }) => { titles[`fused ${name}`] = title; });
const sideOf = (key) => (key === "a" || key === "b" ? key : "fused");

const asFirst = ({ low, high, black, white }) => ({ black: (black - low) / (high - low), white: (white - low) / (high - low) });
const firstWindows = () => Object.fromEntries(Object.entries(scene.sides).map(([name, side]) => [name, asFirst(side)]));

const state = {
  pair: 0, method: scene.methods[0].name, layout: "overview", tool: "move", compare: "blend", mix: 0.5,
  left: "a", right: "b", against: "a", side: "a", tint: false, inverted: false, alone: null, pointer: null,
  windows: firstWindows(),
};
const frame = (side) => ({ ...state.windows[side], inverted: state.inverted });

// ---- images and weights, kept while they are likely to be looked at again

const PIXELS = 2 ** 24;
const kept = new Map();
let most = 24; // of them, more where they are small
const remembered = (key, make) => {
  const found = kept.get(key) ?? make();
  kept.delete(key);
  kept.set(key, found);
  if (kept.size > most) kept.delete(kept.keys().next().value);
  return found;
};

const picture = (pair, key) => remembered(`${pair} ${key}`, () => {
  const images = scene.pairs[pair], side = sideOf(key);
  const { top } = scene.sides[side];
  return decode(side === "fused" ? images.fused[key.slice(6)] : images[key], { top, ...asFirst(scene.sides[side]) });
});

// The weights of a method on a pair: the weight of a pixel, not a number where both sources are black or nobody can
// tell; how it is known; and its mean where the fused image is not black.
const BLACK = 2 / 255;
const weights = (pair, method) => remembered(`${pair} weights ${method}`, async () => {
  const given = scene.pairs[pair].shares[method];
  const [a, b, fused] = await Promise.all(["a", "b", `fused ${method}`].map((key) => picture(pair, key)));
  const map = given === undefined ? estimated(a, b, fused)
    : typeof given === "string" ? (await decode(given, { top: 255, black: 0, white: 1 })).levels : null;
  const at = (i) => (a.seen[i] < BLACK && b.seen[i] < BLACK ? NaN : map ? map[i] : given);
  let sum = 0, count = 0;
  fused.seen.forEach((level, i) => {
    if (level < BLACK || Number.isNaN(at(i))) return;
    sum += at(i);
    count += 1;
  });
  return { at, how: given === undefined ? "estimated" : typeof given === "number" ? "one" : "exact", mean: sum / count };
});

// ---- panes

let panes = [];
const panesOf = {
  overview: () => [
    new Pane("a"), new Pane("b"), new Pane("fused"), new Pane("compare"), new Pane("weights"), new Pane("difference"),
  ],
  methods: () => [new Pane("a"), new Pane("b"), ...scene.methods.map(({ name }) => new Pane("fused", name))],
  weights: () => [new Pane("a"), new Pane("b"), ...scene.methods.map(({ name }) => new Pane("weights", name))],
};

const build = () => {
  panes = panesOf[state.layout]();
  setAlone(null);
  root.querySelector(".panes").replaceChildren(...panes.map((pane) => pane.figure));
  panes.forEach(listen);
};

// The images that a pane draws from, by key; the last of them says whose values it tells.
const keysOf = (pane) => ({
  a: ["a"], b: ["b"], compare: [state.left, state.right], difference: [state.against, `fused ${state.method}`],
}[pane.kind] ?? [`fused ${pane.name ?? state.method}`]);

const sideOfPane = (pane) => sideOf(pane.kind === "compare" ? state.left : keysOf(pane).at(-1));

const paint = (pane) => {
  const method = pane.name ?? state.method, [first, second] = pane.pictures, of = `${scene.pairs[state.pair].name}`;
  const layer = (image, key) => windowed(image, frame(sideOf(key)));
  const [key, other] = keysOf(pane), title = titles[`fused ${method}`];
  if (pane.kind === "compare") {
    const words = `${titles[key]} | ${titles[other]}`;
    pane.show([layer(first, key), layer(second, other)], words, `${state.compare} of ${titles[key]} and ${titles[other]}, ${of}`, { [state.compare]: state.mix });
  } else if (pane.kind === "difference") {
    const words = `Fused \u2212 ${titles[key]}`;
    pane.show([difference(second, first, frame("fused"))], words, `${title} \u2212 ${titles[key]}, ${of}`);
  } else if (pane.kind === "weights") {
    const known = pane.weights.how === "estimated" ? ", estimated" : "";
    pane.show([coloured(first, pane.weights.at)], `${pane.name ? title : "Weights"}${known}`, `Weights of ${titles.a} in ${title}${known}, ${of}`);
  } else if (pane.kind === "fused" && state.tint) {
    pane.show([coloured(first, pane.weights.at, first, frame("fused"))], title, `${title}, tinted by weight, ${of}`);
  } else {
    pane.show([layer(first, key)], titles[key], `${titles[key]}, ${of}`);
  }
};

const needsWeights = (pane) => pane.kind === "weights" || pane.kind === "fused";

// Fetch what is chosen, then paint it all; a choice made meanwhile wins.
let latest = 0;
const show = async () => {
  const mine = ++latest, { pair } = state;
  tellChoices();
  const ready = await Promise.all(panes.map(async (pane) => ({
    pictures: await Promise.all(keysOf(pane).map((key) => picture(pair, key))),
    weights: needsWeights(pane) ? await weights(pair, pane.name ?? state.method) : null,
  })));
  const chosen = await weights(pair, state.method);
  if (mine !== latest) return;
  panes.forEach((pane, i) => Object.assign(pane, ready[i]));
  arrange();
  tellWeights(chosen);
  repaint();
  ui("spoken").textContent = `${scene.pairs[pair].name}, ${titles[`fused ${state.method}`]}`;
  const next = scene.pairs[pair + 1];
  if (next) ["a", "b", `fused ${state.method}`].forEach((key) => picture(pair + 1, key));
};

let stale = false, asked = false;
const redraw = (paintToo = false) => {
  stale ||= paintToo;
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    if (!panes[0]?.pictures) return;
    if (stale) panes.forEach(paint);
    stale = false;
    panes.forEach((pane) => {
      if (!pane.figure.offsetParent) return;
      const elsewhere = pointed() && state.pointer.pane !== pane;
      pane.draw(scene.aspect, elsewhere ? state.pointer : null, scene.millimetres);
      pane.value.textContent = state.pointer ? valueIn(pane) : "";
    });
    ui("place").textContent = placeWords();
    ui("zoom").textContent = `${Math.round(100 * sight.zoom)} %`;
    root.toggleAttribute("data-zoomed", sight.zoom > 1);
  });
};
const repaint = () => {
  tellWindow();
  redraw(true);
};

// As many columns as make the images largest.
const arrange = () => {
  const box = root.querySelector(".panes"), { width, height } = panes[0].pictures[0], shape = width / (height * scene.aspect);
  most = Math.max(24, Math.min(256, PIXELS / (width * height)));
  const size = (columns) => Math.min(
    box.clientWidth / columns / shape,
    box.clientHeight / Math.ceil(panes.length / columns) - 26,
  );
  const counts = panes.map((_, i) => i + 1);
  root.style.setProperty("--columns", counts.reduce((best, each) => (size(each) > size(best) ? each : best), 1));
  root.style.setProperty("--shape", shape);
};

// ---- words and values

const precise = (value, { low, high, top }) => {
  const step = (high - low) / top;
  return value.toFixed(step >= 1 ? 0 : Math.min(4, Math.ceil(-Math.log10(step)))).replace("-", "\u2212");
};
const valued = (level, name) => {
  const side = scene.sides[name], value = side.low + level * (side.high - side.low);
  return `${precise(value, side)}${side.unit && ` ${side.unit}`}`;
};
const pixelAt = ({ x, y }, { width, height }) => {
  const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
  return column >= 0 && row >= 0 && column < width && row < height ? { column, row, i: row * width + column } : null;
};
const pointed = () => state.pointer && pixelAt(state.pointer, panes[0].pictures[0]);
const percent = (weight) => (Number.isNaN(weight) ? "none" : `${Math.round(100 * weight)} % ${titles.a}`);

const valueIn = (pane) => {
  const [first, second] = pane.pictures, pixel = pixelAt(state.pointer, first);
  if (!pixel) return "";
  const [key, other] = keysOf(pane);
  if (pane.kind === "weights") return percent(pane.weights.at(pixel.i));
  if (pane.kind === "compare") return `${valued(first.levels[pixel.i], sideOf(key))} | ${valued(second.levels[pixel.i], sideOf(other))}`;
  if (pane.kind === "difference") {
    const step = 100 * (second.seen[pixel.i] - first.seen[pixel.i]);
    return `${step > 0 ? "+" : ""}${step.toFixed(1)} %`.replace("-", "\u2212");
  }
  return valued(first.levels[pixel.i], sideOf(key));
};

const placeWords = () => {
  const pixel = pointed();
  return pixel ? `Column ${pixel.column}, row ${pixel.row}` : "Point at an image for its values.";
};

const HOW = {
  one: (mean) => `The method's own weight, one for the whole image (of a network: of its encodings): ${mean} of ${titles.a}.`,
  exact: (mean) => "The method's own weight of each pixel (of a network: of its encodings). "
    + `On average ${mean} of ${titles.a} where the image is not black.`,
  estimated: (mean) => `Estimated, as this method has no one weight a pixel: by how near the fused image is to either source, `
    + `over 7 \u00d7 7 pixels. On average ${mean} of ${titles.a}.`,
};
const tellWeights = ({ how, mean }) => {
  ui("weights").textContent = HOW[how](Number.isNaN(mean) ? "an unknown share" : `${(100 * mean).toFixed(1)} %`);
  ui("weights").dataset.how = how;
};

const press = (name, value) => each(`[data-${name}]`, (button) => {
  button.setAttribute("aria-pressed", button.dataset[name] === value);
});

const tellChoices = () => {
  for (const name of ["layout", "tool", "compare", "side"]) press(name, state[name]);
  for (const name of ["pair", "left", "right", "against"]) ui(name).value = state[name];
  ui("turn").value = state.pair;
  ui("turn").setAttribute("aria-valuetext", scene.pairs[state.pair].name);
  root.dataset.tool = state.tool;
  ui("mix").value = 100 * state.mix;
  ui("tint").checked = state.tint;
  each("[data-do=invert]", (button) => button.setAttribute("aria-pressed", state.inverted));
  each("[name=view-method]", (input) => {
    input.checked = input.value === state.method;
    const values = scene.pairs[state.pair].values[input.value] ?? [];
    input.closest("tr").querySelectorAll("td").forEach((cell, i) => { cell.textContent = values[i] ?? "\u2013"; });
  });
  panes.forEach((pane) => pane.figure.classList.toggle("chosen", state.layout !== "overview" && pane.name === state.method));
};

const tellWindow = () => {
  const { black, white } = state.windows[state.side], side = scene.sides[state.side], width = white - black;
  const told = (name, position, text) => {
    Object.assign(ui(name), { value: position }).setAttribute("aria-valuetext", text);
    ui(`${name}-value`).textContent = text;
  };
  told("level", (black + white) / 2, valued((black + white) / 2, state.side));
  told("width", Math.log(width / NARROWEST) / Math.log(1 / NARROWEST), `${precise(width * (side.high - side.low), side)}${side.unit && ` ${side.unit}`}`);
  each("[data-ui=presets]", (presets) => { presets.hidden = side.unit !== "HU"; });
};

// ---- what the user does

const choose = (changes) => {
  Object.assign(state, changes);
  if ("layout" in changes) build();
  show();
};
const turn = (by) => choose({ pair: Math.min(scene.pairs.length - 1, Math.max(0, state.pair + by)) });

const NARROWEST = 0.002;
const setWindow = (side, level, width) => {
  const wide = Math.min(1, Math.max(NARROWEST, width)), middle = Math.min(1, Math.max(0, level));
  state.windows[side] = { black: middle - wide / 2, white: middle + wide / 2 };
  state.side = side;
  tellChoices();
  repaint();
};
const nowWindow = (side) => {
  const { black, white } = state.windows[side];
  return { level: (black + white) / 2, width: white - black };
};

const setAlone = (pane) => {
  state.alone = pane;
  root.toggleAttribute("data-alone", Boolean(state.alone));
  panes.forEach((one) => one.figure.classList.toggle("alone", one === state.alone));
  redraw();
};

const actions = {
  previous: () => turn(-1),
  next: () => turn(1),
  in: () => { zoomTo(sight.zoom * 1.25); redraw(); },
  out: () => { zoomTo(sight.zoom / 1.25); redraw(); },
  fit: () => { zoomTo(1); redraw(); },
  auto: async () => {
    const key = state.side === "fused" ? `fused ${state.method}` : state.side;
    state.windows[state.side] = automatic(await picture(state.pair, key)) ?? state.windows[state.side];
    repaint();
  },
  reset: () => {
    state.windows = firstWindows();
    state.inverted = false;
    tellChoices();
    repaint();
  },
  invert: () => { state.inverted = !state.inverted; tellChoices(); repaint(); },
  tint: () => choose({ tint: !state.tint }),
  smooth: () => { sight.smooth = !sight.smooth; redraw(); },
  theme: () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"),
  help: () => root.querySelector(".help").showModal(),
  close: () => dialog?.close(),
  method: () => {
    const names = scene.methods.map(({ name }) => name);
    choose({ method: names[(names.indexOf(state.method) + 1) % names.length] });
  },
  tool: () => choose({ tool: state.tool === "move" ? "window" : "move" }),
};

const setTheme = (theme) => {
  root.dataset.theme = theme;
  root.querySelector("[data-do=theme]").textContent = theme === "dark" ? "Light" : "Dark";
};

root.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const given = button.dataset;
  if (given.do) actions[given.do]();
  if (given.layout) choose({ layout: given.layout });
  if (given.tool) choose({ tool: given.tool });
  if (given.compare) choose({ compare: given.compare });
  if (given.side) { choose({ side: given.side }); tellWindow(); }
  if (given.preset) {
    const [centre, width] = given.preset.split("/").map(Number), { low, high } = scene.sides[state.side];
    setWindow(state.side, (centre - low) / (high - low), width / (high - low));
  }
});

root.addEventListener("input", ({ target }) => {
  const { level, width } = nowWindow(state.side);
  const name = target.dataset.ui;
  if (target.name === "view-method") choose({ method: target.value });
  if (name === "pair" || name === "turn") choose({ pair: Number(target.value) });
  if (["left", "right", "against"].includes(name)) choose({ [name]: target.value });
  if (name === "mix") { state.mix = target.value / 100; repaint(); }
  if (name === "tint") choose({ tint: target.checked });
  if (name === "level") setWindow(state.side, Number(target.value), width);
  if (name === "width") setWindow(state.side, level, NARROWEST ** (1 - target.value));
});

const KEYS = {
  PageUp: actions.previous, PageDown: actions.next, ArrowLeft: actions.previous, ArrowRight: actions.next,
  "+": actions.in, "=": actions.in, "-": actions.out, 0: actions.fit,
  n: actions.method, w: actions.tool, a: actions.auto, r: actions.reset, i: actions.invert, x: actions.tint,
  p: actions.smooth, t: actions.theme, "?": actions.help,
  o: () => choose({ layout: "overview" }), m: () => choose({ layout: "methods" }), v: () => choose({ layout: "weights" }),
  b: () => choose({ compare: "blend" }), s: () => choose({ compare: "swipe" }),
  ",": () => slide(-0.05), ".": () => slide(0.05),
};
const slide = (by) => choose({ mix: Math.min(1, Math.max(0, state.mix + by)) });
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || (dialog && !dialog.open)) return;
  if (root.querySelector(".help").open || target.matches?.("select")) return;
  if (target.matches?.("input") && (key.startsWith("Arrow") || key.startsWith("Page"))) return;
  const pane = panes.find((one) => one.canvas === target);
  if (event.shiftKey && STEPS[key]) {
    const [dx, dy] = STEPS[key];
    move(sight.x + 0.1 * dx / sight.zoom, sight.y + 0.1 * dy / sight.zoom);
    redraw();
  } else if (key === "Enter" && pane) {
    setAlone(state.alone ? null : pane);
  } else if (key === "Escape" && state.alone) {
    setAlone(null);
  } else if (key >= "1" && key <= "9" && scene.methods[key - 1]) {
    choose({ method: scene.methods[key - 1].name });
  } else if (KEYS[key] ?? KEYS[key.toLowerCase()]) {
    (KEYS[key] ?? KEYS[key.toLowerCase()])();
  } else {
    return;
  }
  event.preventDefault();
});

// ---- begin

for (const name of ["left", "right", "against"]) {
  ui(name).replaceChildren(...Object.entries(titles).map(([key, title]) => new Option(title, key)));
}
const dark = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
new ResizeObserver(() => {
  if (!panes[0]?.pictures) return;
  arrange();
  redraw();
}).observe(root);
root.hidden = false;
build();
const begin = () => choose({ pair: Number(dialog?.dataset.pair ?? 0), method: dialog?.dataset.method ?? state.method });
dialog?.addEventListener("look", begin);
begin();
