// Images as arrays: read, windowed, coloured, and compared. Levels are shares of the largest one, 0 to 1.

const BLUE = [72, 156, 255], ORANGE = [255, 158, 54], HALF = [64, 64, 64];

// An image of one side: its levels, its colours where it has any, and its levels as the fusion saw them: through the
// side's first window.
const decode = async (address, { top, black, white }) => {
  const image = new Image();
  image.src = address.startsWith("#") ? document.getElementById(address.slice(1)).src : address;
  await image.decode();
  const context = surface(image.naturalWidth, image.naturalHeight);
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
  const levels = new Float32Array(width * height);
  let colour = false;
  for (let i = 0, j = 0; i < levels.length; i++, j += 4) {
    if (top > 255) {
      levels[i] = (256 * data[j] + data[j + 1]) / top;
    } else if (data[j] === data[j + 1] && data[j] === data[j + 2]) {
      levels[i] = data[j] / 255;
    } else {
      levels[i] = (0.299 * data[j] + 0.587 * data[j + 1] + 0.114 * data[j + 2]) / 255;
      colour = true;
    }
  }
  const whole = black === 0 && white === 1;
  const seen = whole ? levels : levels.map((level) => shade(level, { black, white }) / 255);
  return { width, height, levels, seen, colours: colour ? data : null };
};

const surface = (width, height) => {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext("2d", { willReadFrequently: true });
};

// A canvas of that size, filled pixel by pixel: paint(i, rgba, j) sets the pixel i, whose bytes begin at j.
const painted = ({ width, height }, paint) => {
  const context = surface(width, height);
  const image = context.createImageData(width, height);
  for (let i = 0, j = 0; i < width * height; i++, j += 4) {
    paint(i, image.data, j);
    image.data[j + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return context.canvas;
};

const shade = (level, { black, white, inverted }) => {
  const value = 255 * Math.min(1, Math.max(0, (level - black) / (white - black)));
  return inverted ? 255 - value : value;
};

const windowed = (picture, frame) => painted(picture, (i, rgba, j) => {
  for (let c = 0; c < 3; c++) {
    rgba[j + c] = shade(picture.colours ? picture.colours[j + c] / 255 : picture.levels[i], frame);
  }
});

// The weights as colours, black where nobody can tell; with a picture, that picture tinted by them.
const coloured = (size, weightAt, picture, frame) => painted(size, (i, rgba, j) => {
  const weight = weightAt(i), strength = Math.abs(2 * weight - 1), hue = weight > 0.5 ? ORANGE : BLUE;
  const value = picture ? shade(picture.levels[i], frame) / 255 : 1;
  for (let c = 0; c < 3; c++) {
    if (Number.isNaN(weight)) rgba[j + c] = picture ? 255 * value : 0;
    else rgba[j + c] = value * mixed(picture ? 255 : HALF[c], hue[c], strength);
  }
});

// How much brighter each pixel of one image is than of another, as colours; both as the fusion saw them.
const difference = (picture, other, frame) => painted(picture, (i, rgba, j) => {
  const step = 2 * (picture.seen[i] - other.seen[i]) / (frame.white - frame.black);
  for (let c = 0; c < 3; c++) rgba[j + c] = Math.min(1, Math.abs(step)) * (step > 0 ? ORANGE : BLUE)[c];
});

const mixed = (from, to, share) => from + (to - from) * share;

// Sums over the 7x7 pixels about each one, or those of them inside the image.
const REACH = 3;
const around = (values, width, height) => {
  const along = (from, to, count, step, lines, stride) => {
    for (let line = 0; line < lines; line++) {
      let sum = 0;
      const start = line * stride;
      for (let i = -REACH; i < count; i++) {
        if (i + REACH < count) sum += from[start + (i + REACH) * step];
        if (i - REACH > 0) sum -= from[start + (i - REACH - 1) * step];
        if (i >= 0) to[start + i * step] = sum;
      }
    }
  };
  const rows = new Float64Array(values.length), sums = new Float64Array(values.length);
  along(values, rows, width, 1, height, width);
  along(rows, sums, height, width, width, 1);
  return sums;
};

// The weight of A by how near the fused image is to each source: sum |F - B| / (sum |F - A| + sum |F - B|) over 7x7
// pixels. It is w itself wherever F = w A + (1 - w) B there. Where the two sum to under 2 of 255 levels a pixel, the
// sources and the fused image are alike, and no weight can be told.
const estimated = (a, b, fused) => {
  const { width, height } = fused;
  const distance = (source) => around(fused.seen.map((level, i) => Math.abs(level - source.seen[i])), width, height);
  const toA = distance(a), toB = distance(b), pixels = around(new Float32Array(toA.length).fill(1), width, height);
  return toA.map((near, i) => (near + toB[i] < pixels[i] * 2 / 255 ? NaN : toB[i] / (near + toB[i])));
};

// The window that shows the middle 99 percent of what is not the least level.
const automatic = ({ levels }) => {
  const least = levels.reduce((a, b) => Math.min(a, b), 1);
  const sorted = levels.filter((level) => level > least).sort();
  if (!sorted.length) return null;
  const black = sorted[Math.floor(0.005 * (sorted.length - 1))], white = sorted[Math.ceil(0.995 * (sorted.length - 1))];
  return white > black ? { black, white } : null;
};
