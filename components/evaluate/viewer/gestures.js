// Pointers: hovering, dragging, pinching, the wheel

const down = new Map();
let drag = null;

const startDrag = (pane, event) => {
  const ratio = pane.canvas.width / pane.canvas.clientWidth;
  const near = pane.swipe !== null && Math.abs(pane.edge(pane.place(scene.aspect)) / ratio - event.offsetX) < 18;
  const window_ = event.button === 2 || event.shiftKey || state.tool === "window";
  const kind = near && event.button === 0 ? "swipe" : window_ ? "window" : "move";
  return { kind, pane, x: event.clientX, y: event.clientY, sight: { ...sight }, ...nowWindow(sideOfPane(pane)) };
};

const continueDrag = (event) => {
  const { kind, pane } = drag, dx = event.clientX - drag.x, dy = event.clientY - drag.y;
  const place = pane.place(scene.aspect), ratio = pane.canvas.width / pane.canvas.clientWidth;
  if (kind === "window") {
    setWindow(sideOfPane(pane), drag.level + dy * drag.width / 300, drag.width * Math.exp(dx / 200));
  } else if (kind === "swipe") {
    const from = Math.max(0, place.left), to = Math.min(pane.canvas.width, place.left + place.w);
    const x = (event.clientX - pane.canvas.getBoundingClientRect().left) * ratio;
    state.mix = Math.min(1, Math.max(0, (x - from) / (to - from)));
    tellChoices();
    repaint();
  } else {
    move(drag.sight.x - dx * ratio / place.w, drag.sight.y - dy * ratio / place.h);
    redraw();
  }
};

// Two fingers: how far apart they are zooms, their middle stays on the image where it was.
const pinch = (pane) => {
  const [one, two] = [...down.values()];
  const middle = { clientX: (one.clientX + two.clientX) / 2, clientY: (one.clientY + two.clientY) / 2 };
  const apart = Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
  if (drag?.kind !== "pinch") {
    drag = { kind: "pinch", pane, apart, zoom: sight.zoom, point: pane.at(middle, scene.aspect) };
    return;
  }
  zoomTo(drag.zoom * apart / drag.apart);
  const now = pane.at(middle, scene.aspect);
  move(sight.x + drag.point.x - now.x, sight.y + drag.point.y - now.y);
  redraw();
};

const listen = (pane) => {
  const { canvas } = pane;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button === 1) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, event);
    if (down.size === 2) pinch(pane);
    else if (down.size === 1) drag = startDrag(pane, event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pane.layers.length) return;
    if (down.has(event.pointerId)) down.set(event.pointerId, event);
    if (down.size === 2) pinch(pane);
    else if (drag && drag.kind !== "pinch") continueDrag(event);
    state.pointer = { ...pane.at(event, scene.aspect), pane };
    redraw();
  });
  const end = (event) => {
    down.delete(event.pointerId);
    if (!down.size) drag = null;
  };
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(name, end);
  canvas.addEventListener("pointerleave", () => {
    state.pointer = null;
    redraw();
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => setAlone(state.alone ? null : pane));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (!pane.layers.length) return;
    // Browsers turn the wheel sideways where Shift is down.
    if (event.shiftKey) return void turn(Math.sign(event.deltaY || event.deltaX));
    const { x, y } = pane.at(event, scene.aspect);
    zoomTo(sight.zoom * Math.exp(-Math.sign(event.deltaY) * Math.min(0.2, Math.abs(event.deltaY) / 400)), x, y);
    redraw();
  }, { passive: false });
};

