"""Says which tissue lies where in a healthy head, and paints one slice of it from the skin inwards.

A head is a set of closed forms in millimetres (x to the image's right, y to the front, z up, origin between the
commissures) folded and roughened by one periodic noise per subject.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from components.ingest.phantom.canvas import Array, Canvas, coverage
from components.ingest.phantom.subject import Subject

# (x, y, z, radius) along one lateral ventricle: frontal horn, body, atrium; then its two other horns.
VENTRICLE = (
    ((15, 33, 2, 2.5), (11, 27, 8, 5.5), (8, 14, 17, 5.5), (11, -6, 24, 5.5), (16, -22, 21, 6.5), (24, -33, 10, 7.5)),
    ((24, -33, 10, 7.5), (25, -48, 7, 4.5), (22, -60, 6, 1.5)),
    ((24, -33, 10, 7.5), (31, -24, -6, 3.6), (32, -8, -18, 2.8), (30, 3, -24, 2.0)),
)

# (side, y, highest z) of the arteries that cross the cisterns at the base: basilar, carotid, posterior cerebral.
ARTERIES = ((0.0, 0.0, -16), (9.0, 11.0, -14), (13.0, -24.0, -14))


def paint_head(size: int, subject: Subject, folds: Array, height: float) -> Slice:
    """The slice of a subject's head, without its lesions, `height` mm above the commissures; (size, size) pixels."""
    head = Slice(size, subject, folds, height)
    # Each tissue covers those painted before it.
    head.paint_soft_tissue_and_skull()
    head.paint_face()
    head.paint_cerebrum()
    head.paint_deep_structures()
    head.paint_hindbrain()
    head.paint_skull_base()
    head.paint_basal_arteries()
    head.paint_harmless_lime()
    return head


class Slice(Canvas):
    """One slice of a head, with the depths in mm (H, W) below the surfaces that all its parts are placed by.

    vault: the inner table of the skull; floor: the front of the skull base; intracranial: both; skull: the outer
    table; skin: the skin. shell is 0 at the centre of the head and 1 at the inner table.
    """

    def __init__(self, size: int, subject: Subject, folds: Array, height: float) -> None:
        super().__init__(size, subject, folds, height)
        self.shell = self._shell()
        self.vault = self._vault_depth()
        self.floor = self._floor_depth()
        self.intracranial = np.minimum(self.vault, self.floor)
        self.frontal_sinus, self.muscle = self._frontal_sinus(), self._muscle_thickness()
        self.skull = self._skull_depth()
        self.skin = self._skin_depth()

    def _shell(self) -> Array:
        """A superellipsoid, broad behind, hollow at the temples."""
        y, z = self.y, self.z
        width = 67 * (1 - 0.10 * y / 84 - 0.05 * (y / 84) ** 2)
        width = width * (1 - 0.06 * _bump(y, 44, 18) * _sigmoid((14 - z) / 7))
        height = 76.0 if z > 0 else 66.0
        powers = (self.side / width) ** 2.3 + np.abs(y / 84) ** 2.3 + abs(z / height) ** 2.3
        return np.asarray((powers + 1e-9) ** (1 / 2.3))

    def _vault_depth(self) -> Array:
        x, y, z = self.x, self.y, self.z
        reach = np.sqrt(x * x + y * y + z * z) + 1e-6
        bumps = 0.3 * self.smooth_noise(0.4, 2) + 0.35 * self.smooth_noise(1.4, 17)
        return np.asarray(reach * (1 / self.shell - 1) + bumps)

    def _floor_depth(self) -> Array:
        """Over the roofs of the orbits, or behind the sphenoid ridge."""
        width = 11 + 0.08 * np.clip(self.y - 20, 0, 60)
        roof = -26.5 + 10 * _bump(self.side, 34, width) + 1.2 * self.smooth_noise(0.9, 3)
        ridge = 13 + 0.34 * self.side + 1.5 * self.smooth_noise(0.7, 4)
        return np.asarray(np.maximum(self.z - roof, ridge - self.y))

    def _frontal_sinus(self) -> Array:
        """By how many mm the frontal sinus pushes the outer table forward."""
        height = ((self.z + 9) / 11) ** 4
        return np.asarray(8 * np.exp(-(((self.x / 19) ** 2) ** 2) - height) * _sigmoid((self.y - 60) / 3))

    def _muscle_thickness(self) -> Array:
        """How thick the temporal muscles are, and the muscles of the neck."""
        y, z = self.y, self.z
        temporal = 7 * _bump(y, 24, 26) * _sigmoid((12 - z) / 7) * _sigmoid((self.side - 30) / 9)
        return np.asarray(temporal + max(0.0, -14 - z) * 0.45 * _sigmoid((-y - 30) / 12))

    def _skull_depth(self) -> Array:
        """The skull is thicker at the brow and at the back of the head."""
        ends = 2.2 * _bump(self.y, -88, 16) + 1.2 * _bump(self.y, 88, 16)
        thickness = self.vault + self.subject.skull_thickness + ends
        return np.asarray(thickness + self.frontal_sinus + 0.4 * self.smooth_noise(0.4, 5))

    def _skin_depth(self) -> Array:
        scalp = self.skull + 4.6 + self.muscle + 0.5 * self.smooth_noise(0.35, 6)
        return np.asarray(np.maximum(scalp, self._face_depth()) if self.z < -8 else scalp)

    def _face_depth(self) -> Array:
        """Depth in mm below the skin of the cheeks, the brow and the nose."""
        cheeks = 1 - ((self.side / 57) ** 2.6 + np.abs((self.y - 20) / 73) ** 2.6) ** (1 / 2.6)
        nose = 1 - np.hypot(self.x / 13, (self.y - 92) / 17)
        return np.asarray(np.maximum(_within(57 * cheeks, -12 - self.z), _within(14 * nose, -27 - self.z)))

    def paint_soft_tissue_and_skull(self) -> None:
        """Skin, fat, temporal and neck muscle, both tables of the skull, diploe, frontal sinus."""
        skin, skull, muscle = self.skin, self.skull, self.muscle
        self.paint("skin", skin)
        self.paint("fat", skin - 1.9)
        self.paint("muscle", _within(skull + muscle - 1, skin - 3.4, muscle - 1.2), 2)
        streaks = self.smooth_noise(2.0, 21)
        self.ct, self.mri = self.ct + 9 * streaks * (skin > 0), self.mri * (1 + 0.08 * streaks)
        self.paint("bone", _within(skull, self.floor + 3.6))
        if self.z > -27:
            self.paint("bone", _within(skull, self.y - 72))
        diploe = _within(skull - 2.1, -self.vault - 1.9, self.floor)
        self.paint("marrow", diploe - 0.5 + 0.5 * self.smooth_noise(1.6, 7))
        self.paint("air", _within(diploe, self.frontal_sinus - 4.5, self.side - 0.8))

    def paint_face(self) -> None:
        """Orbits with globes, nerves and muscles, ethmoid and sphenoid air cells, cheek bones, below the skull base."""
        if self.z > -8:
            return
        y, z, side = self.y, self.z, self.side
        below = _within(-self.floor - 1.5, self.skin - 2.2)
        opening = math.sqrt(max(0.0, 1 - ((z + 36) / 21) ** 2))
        along = np.clip((y - 22) / 44, 0, 1.3)
        off_axis = side - (10 + 21 * along)
        orbit = (5.5 + 13 * along) * opening - np.abs(off_axis)
        self.paint("muscle", _within(below, side - 36, 44 - y))
        self.paint("bone", _within(below, orbit + 3.2, 66 + 12 * _sigmoid((20 - side) / 3) - y))
        self.paint("bone", _within(self.skin - 4, self.ellipsoid((47, 58, -32), (4.5, 8, 20), -30)))
        nose = _within(15.0 - side, y - 10, 84 - y, below + 1)
        self.paint("bone", _within(self.skin - 3, nose))
        cells = np.abs(self.noise(self.x * 2.4, y * 1.5, z * 1.5)) * 3.5 - 0.7
        self.paint("air", _within(nose - 1.6, self.skin - 6, cells, side - 0.7))
        self.paint("air", _within(7 - side, side - 1.0, 98 - y, y - 78, self.skin - 3, -34 - z))
        self.paint("fat", _within(below, orbit, y - 22))
        socket = _within(below, orbit - 0.5)
        nerve = _within(1.7 - np.hypot(off_axis, (z + 36) / 4), 64 - y)
        self.paint("muscle", _within(socket, nerve))
        bulge = np.abs(np.abs(off_axis) - (3 + 11 * along * (1.6 - along)) * opening)
        self.paint("muscle", _within(socket, 1.5 - bulge, 62 - y))
        globe = self.ellipsoid((31, 68, -36), (12, 12.5, 12))
        self.paint("muscle", globe + 1.0)
        self.paint("vitreous", globe)
        self.paint("lens", self.ellipsoid((31, 77, -36), (4.5, 2.2, 4.5)))

    def paint_cerebrum(self) -> None:
        """Fluid, white matter, the folded cortex with its sulci, the Sylvian fissures, the falx and its sinus."""
        y, z, side, inner, wide = self.y, self.z, self.side, self.intracranial, self.subject.sulcus_width
        core = 1 - np.sqrt(((y + 2) / 41) ** 2 + ((z - 8) / (22 if z > 8 else 42)) ** 2)
        wander, ripple = self.smooth_noise(0.8, 9), self.smooth_noise(1.3, 10)
        off_midline = np.abs(self.x + 0.5 * wander)
        surface = inner - 0.3 - 0.8 * wide + 0.4 * wander
        midline = off_midline - 0.2 - (0.4 + 0.2 * ripple) * wide + 60 * np.clip(core, 0, None)
        depth = _within(surface, self._from_sulci(core, wander, ripple), midline, self._from_sylvian(wander, ripple))
        self.paint("csf", inner)
        self.paint("white", surface)
        self.paint("grey", _within(surface, 3.0 - depth + 0.5 * ripple), 1.8)
        self.paint("csf", _within(inner, -depth), 1.3)
        self.paint("falx", _within(inner, 0.45 - off_midline, -60 * core - 6))
        self.paint("vessel", _within(inner, 5.5 - inner - 0.9 * side, -y - 20))
        self._mottle()

    def _from_sulci(self, core: Array, wander: Array, ripple: Array) -> Array:
        """How many mm of brain lie between a point and the nearest sulcus, a zero of the subject's noise."""
        # Coordinates drawn out along the radius make the folds stand upright on the surface.
        stretch = np.clip(self.shell, 0.25, None) ** -0.6
        fold = self.noise(self.x * stretch, self.y * stretch, self.z * stretch) + 0.18 * ripple
        buried = np.clip(np.minimum(self.intracranial, self.side + 80 * np.clip(core, 0, None)), 0, None)
        width = self.subject.sulcus_width * (0.15 + 0.55 * wander + 1.0 * np.exp(-buried / 6))
        bottom = 0.5 * np.clip(buried - 15 - 6 * self.smooth_noise(0.6, 8), 0, None)
        return np.asarray(np.abs(fold) / (self.slope(fold) + 0.035) - width + bottom)

    def _from_sylvian(self, wander: Array, ripple: Array) -> Array:
        """How many mm of brain lie between a point and the Sylvian fissure: its stem, and the cleft on the insula."""
        y, z, side = self.y, self.z, self.side
        insula = np.maximum(np.abs(side - 39 + (y - 4) ** 2 / 90 + 1.5 * ripple), np.abs(y - 4) - 17)
        stem = np.maximum(np.abs(y + 0.35 * (side - 39) + 0.7 * (z - 6) + 2.5 * wander), 38 - side)
        width = 0.9 * self.subject.sulcus_width
        return np.asarray(_within(insula, stem) - (0.5 + 0.3 * wander) - width + 0.6 * max(0.0, abs(z - 4) - 15))

    def _mottle(self) -> None:
        """Brain is never flat: uneven myelin on MR, and on CT the brighter rim that the skull's scatter leaves."""
        coarse, fine = self.smooth_noise(0.7, 11), self.smooth_noise(1.6, 15)
        brain = self.intracranial > 0
        rim = 5 * np.exp(-np.clip(self.intracranial, 0, None) / 9)
        self.ct = self.ct + brain * (rim + 1.2 * coarse + 1.0 * fine)
        self.mri = self.mri * (1 + brain * (0.04 * coarse + 0.045 * fine))

    def paint_deep_structures(self) -> None:
        """Basal ganglia, thalami, lateral and third ventricles with the septum between."""
        caudate_head = self.ellipsoid((16.5, 20, 8), (6, 11, 11), 18)
        caudate = np.maximum(caudate_head, self.ellipsoid((19, 0, 21), (3.2, 16, 4.5), 12))
        self.paint("grey", caudate, 2)
        self.paint("grey", self.ellipsoid((27, 4, 4), (7, 19, 13), 10), 2)
        self.paint("pallidum", self.ellipsoid((21.5, 0, 2), (4.2, 10, 8), 24), 2)
        self.paint("grey", self.ellipsoid((11, -13, 7), (9, 15, 11), -18), 2.5)
        scale = self.subject.ventricle_scale
        tubes = np.max([self.tubes(chain, scale) for chain in VENTRICLE], axis=0)
        lateral = _within(tubes + 0.5 * self.smooth_noise(0.9, 12), -caudate - 0.2, self.side - 0.7)
        third = self.ellipsoid((0, -2, -4), (1.2 + 1.6 * scale, 14, 11))
        self.paint("ventricle", _within(np.maximum(lateral, third), self.intracranial - 6))

    def paint_hindbrain(self) -> None:
        """Cisterns, cerebellum with its folia, brain stem with the aqueduct, fourth ventricle."""
        y, z, side, inner = self.y, self.z, self.side, self.intracranial
        if z > 6:
            return
        lean = -16 + 3 * math.sin((z + 12) / 9) if z < -12 else -16.0
        self.paint("csf", _within(inner, self.ellipsoid((0, -29, -2), (13, 6, 9))))
        stem = self._stem_depth(lean)
        sella = 10.5 + 2.5 * np.cos(5 * np.arctan2(self.x, y - 5)) - np.hypot(self.x, y - 5)
        cistern = np.maximum(stem + 2.4 + 0.8 * self.smooth_noise(0.8, 19), sella - 2.5 * max(0.0, abs(z + 20) - 7))
        bowl = 1 - np.sqrt((side / 54) ** 2 + ((y + 50) / 31) ** 2 + ((z + 44) / 36) ** 2)
        bowl = bowl / (self.slope(bowl) + 2e-3) + 0.8 * self.smooth_noise(0.9, 13)
        self.paint("csf", _within(inner, np.maximum(cistern, bowl + 1.1)), 1.3)
        self._paint_cerebellum(np.minimum(bowl, inner - 2))
        self.paint("stem", _within(inner, stem))
        self.paint("ventricle", self.ellipsoid((0, lean - 14.5, -36), (7, 4, 11)))
        self.paint("ventricle", _within(1.1 - np.hypot(side, y - lean + 9), -8 - z))

    def _stem_depth(self, lean: float) -> Array:
        """Depth in mm inside the brain stem centred at y = lean, cleft between the peduncles, gone above z = 2."""
        y, z, side = self.y, self.z, self.side
        width = 15.5 if z > -24 else 14.0
        level = max(0.0, 1 - max(0.0, (z + 8) / 10) ** 2)
        cleft = 5.5 * _bump(side, 0, 4) * _sigmoid((y - lean - 3) / 2) if z > -26 else 0.0
        stem = (1 - np.sqrt((side / width) ** 2 + ((y - lean) / 12.5) ** 2)) * 13 - 60 * (1 - level) - cleft
        return np.asarray(stem + 0.7 * self.smooth_noise(0.9, 18))

    def _paint_cerebellum(self, bowl: Array) -> None:
        y, side = self.y, self.side
        self.paint("grey", bowl)
        ripple = self.smooth_noise(1.5, 10)
        bent = self.noise(self.x * 0.5, y * 0.5, self.z) * 1.8
        folia = np.sin(bent + (0.6 * bowl + 0.15 * side + 0.75 * y) * (2 * math.pi / 4.1))
        self.paint("white", _within(bowl - 2.5, folia * 0.6 - 0.25 + 0.25 * ripple), 1.8)
        self.paint("white", _within(bowl - 11, np.abs(side - 18) * -0.7 + 9), 3)
        self.paint("grey", _within(bowl, 5 - side), 2)
        self.paint("csf", _within(bowl, 0.8 - side, -58 - y))

    def paint_skull_base(self) -> None:
        """Petrous bones with mastoid cells, and the dorsum sellae with the clivus."""
        y, z, side = self.y, self.z, self.side
        tall = 1 - ((z + 42) / 17) ** 2
        if tall > 0:
            along = np.clip((side - 9) / 50, 0, 1.1)
            ridge = (2.5 + 9 * along) * math.sqrt(tall) - np.abs(y - 1 + 24 * along) + 0.8 * self.smooth_noise(1.1, 14)
            ridge = _within(ridge, side - 9, self.skull - 0.5)
            self.paint("bone", ridge)
            holes = self.noise(self.x * 3.1, y * 3.1, z * 3) - 0.55
            self.paint("air", _within(ridge - 2, side - 30, holes * 3))
        self.paint("bone", _within(11 - side, 2.5 - np.abs(y - 6), -27 - z))

    def paint_basal_arteries(self) -> None:
        """The vessels of ARTERIES, dark on MR as blood flows in them."""
        for side, y, top in ARTERIES:
            radius = np.hypot(self.side - side, self.y - y)
            self.paint("vessel", _within(1.7 - radius, self.intracranial, top - self.z))

    def paint_harmless_lime(self) -> None:
        """Pineal and choroid plexus calcify with age: bright on CT, no lesion, and nothing on MR."""
        pineal = self.ellipsoid((0, -31, 3), (2.4, 3, 5))
        plexus = self.ellipsoid((23.5, -35, 8), (2.4, 3.2, 6))
        self.ct += coverage(np.maximum(pineal, plexus) + self.subject.lime, self.pixel) * 130


def _within(*depths: Array | float) -> Array:
    """Depth in mm inside all of several shapes at once."""
    return np.asarray(reduce(np.minimum, depths))


def _bump(x: Array, centre: float, width: Array | float) -> Array:
    return np.asarray(np.exp(-(((x - centre) / width) ** 2)))


def _sigmoid(x: Array | float) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * np.asarray(x, dtype=np.float64)))
