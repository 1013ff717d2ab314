// A pane: one canvas that shows layers of images through the view that all panes share.

// What all panes show of their images: how large, and which point of the image (shares of its sides) is in the middle.
const sight = { zoom: 1, x: 0.5, y: 0.5, smooth: false };

const move = (x, y) => {
  const margin = 0.5 / sight.zoom;
  const inside = (value) => Math.min(1 - margin, Math.max(margin, value));
  [sight.x, sight.y] = [inside(x), inside(y)];
};

// Zoom about a point of the image, which stays where it is.
const zoomTo = (zoom, x = sight.x, y = sight.y) => {
  const before = sight.zoom;
  sight.zoom = Math.min(40, Math.max(1, zoom));
  const rest = before / sight.zoom;
  move(x + (sight.x - x) * rest, y + (sight.y - y) * rest);
};

class Pane {
  constructor(kind, name) {
    Object.assign(this, { kind, name, layers: [], swipe: null, blend: null });
    this.figure = document.createElement("figure");
    this.figure.dataset.pane = kind;
    this.figure.innerHTML = '<figcaption><b></b><output></output></figcaption><div class="stage"><canvas role="img" tabindex="0"></canvas></div>';
    [this.title, this.value, this.canvas] = ["b", "output", "canvas"].map((tag) => this.figure.querySelector(tag));
  }

  // Layers are canvases, drawn one over the other: the second shows to the right of `swipe`, or as thin as `blend`.
  show(layers, title, label, { swipe = null, blend = null } = {}) {
    Object.assign(this, { layers, swipe, blend });
    this.title.textContent = title;
    this.title.title = title;
    this.canvas.setAttribute("aria-label", label);
  }

  // Where the image lies on the canvas, in its pixels.
  place(aspect) {
    const { width, height } = this.layers[0], { canvas } = this;
    const scale = sight.zoom * Math.min(canvas.width / width, canvas.height / (height * aspect));
    const [w, h] = [width * scale, height * aspect * scale];
    return { left: canvas.width / 2 - sight.x * w, top: canvas.height / 2 - sight.y * h, w, h };
  }

  // The share of the image's sides that a point of the screen is at.
  at(event, aspect) {
    const box = this.canvas.getBoundingClientRect(), { left, top, w, h } = this.place(aspect);
    const ratio = this.canvas.width / box.width;
    return { x: ((event.clientX - box.left) * ratio - left) / w, y: ((event.clientY - box.top) * ratio - top) / h };
  }

  fit() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
  }

  // Where the swipe parts the visible part of the image.
  edge({ left, w }) {
    const [from, to] = [Math.max(0, left), Math.min(this.canvas.width, left + w)];
    return from + this.swipe * (to - from);
  }

  draw(aspect, pointer, millimetres) {
    this.fit();
    const { canvas } = this, context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.layers.length || !canvas.width) return;
    const place = this.place(aspect);
    context.imageSmoothingEnabled = sight.smooth;
    context.imageSmoothingQuality = "high";
    this.layers.forEach((layer, number) => {
      context.save();
      if (number && this.swipe !== null) {
        context.beginPath();
        context.rect(this.edge(place), 0, canvas.width, canvas.height);
        context.clip();
      }
      if (number && this.blend !== null) context.globalAlpha = this.blend;
      context.drawImage(layer, place.left, place.top, place.w, place.h);
      context.restore();
    });
    if (this.swipe !== null) this.drawEdge(context, this.edge(place));
    if (pointer) this.drawPointer(context, place.left + pointer.x * place.w, place.top + pointer.y * place.h);
    if (millimetres) this.drawScale(context, place.w / (this.layers[0].width * millimetres));
  }

  drawEdge(context, x) {
    const { height } = this.canvas, size = 7 * (window.devicePixelRatio || 1);
    context.fillStyle = "#fff";
    context.fillRect(Math.round(x) - 1, 0, 2, height);
    context.beginPath();
    context.arc(x, height / 2, size, 0, 7);
    context.fill();
  }

  // The same place on every image, a cross with a free middle.
  drawPointer(context, x, y) {
    const unit = window.devicePixelRatio || 1;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * unit * dx, y + 4 * unit * dy);
      context.lineTo(x + 11 * unit * dx, y + 11 * unit * dy);
    }
    for (const [colour, width] of [["#000", 3], ["#ffe14d", 1]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: width * unit });
      context.stroke();
    }
  }

  // A bar of a round length, at most a third of the width.
  drawScale(context, pixels) {
    const { width, height } = this.canvas, unit = window.devicePixelRatio || 1;
    const length = [100, 50, 20, 10, 5, 2, 1].find((mm) => mm * pixels <= width / 3);
    if (!length) return;
    context.fillStyle = "#fff";
    context.fillRect(8 * unit, height - 10 * unit, length * pixels, 2 * unit);
    context.font = `${11 * unit}px system-ui, sans-serif`;
    context.fillText(length >= 10 ? `${length / 10} cm` : `${length} mm`, 8 * unit, height - 15 * unit);
  }
}
