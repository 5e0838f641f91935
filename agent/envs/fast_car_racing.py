"""CarRacing-v3 that draws only the frames that are looked at, by its own code or faster with equal pixels.

Stock rotates and culls some 800 polygons in Python on every frame, of which about 50 are drawn. In `FastCarRacing` one
numpy expression does so, in the same double precision and order of operations, so every vertex falls on the same pixel.
What cannot be seen is left out: polygons off the screen and the rows under the status bar.

Screen coordinates (x right, y up until the final flip): 1000 x 800 pixels, shrunk to 96 x 96.
"""

from typing import Any

import numpy as np
import pygame
from gymnasium.envs.box2d.car_racing import (
    GRASS_DIM,
    MAX_SHAPE_DIM,
    PLAYFIELD,
    SCALE,
    STATE_H,
    STATE_W,
    WINDOW_H,
    WINDOW_W,
    ZOOM,
    CarRacing,
)
from numpy.typing import NDArray
from pygame import gfxdraw

BAR_H = WINDOW_H // 8  # height of the status bar, which hides what is drawn there
AA_MARGIN = 2.0  # an anti-aliased edge reaches at most this many pixels beyond its vertices


def _grass() -> NDArray[np.float64]:
    """The lighter patches of the field, [xy, vertex, polygon], in the order in which stock draws them."""
    corners = np.array([(1, 0), (0, 0), (0, 1), (1, 1)])
    cells = np.array([(x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)])
    return GRASS_DIM * cells.T[:, None, :] + GRASS_DIM * corners.T[:, :, None]


GRASS = _grass()
NUM_GRASS = GRASS.shape[2]


class DrawnOnDemand(CarRacing):
    """gymnasium's own physics and drawing; `draw_frames = False` steps without drawing (the frame is then None)."""

    def __init__(self) -> None:
        super().__init__()
        self.draw_frames = True
        self._skipped_score = 0.0

    def _render(self, mode: str) -> Any:
        if mode == "state_pixels" and not self.draw_frames:
            self._skipped_score = self.reward
            return None
        return super()._render(mode)

    def draw_skipped(self) -> NDArray[np.uint8]:
        """The frame of the last step, [96, 96, rgb], which was taken with `draw_frames` off."""
        score, self.reward = self.reward, self._skipped_score  # a step draws before it subtracts its cost
        self.draw_frames = True
        pixels: NDArray[np.uint8] = self._render("state_pixels")
        self.reward = score
        return pixels


class FastCarRacing(DrawnOnDemand):
    """The same pixels, drawn faster."""

    def __init__(self) -> None:
        super().__init__()
        self.surf: Any
        self._shapes = GRASS
        self._shapes_of: list[Any] | None = None
        self._world = pygame.Surface((WINDOW_W, WINDOW_H))
        self._bar = pygame.Surface((WINDOW_W, WINDOW_H))
        self._narrow = pygame.Surface((STATE_W, WINDOW_H))
        self._font: pygame.font.Font | None = None
        self._text = ("", pygame.Surface((1, 1)))

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels" or not self.draw_frames or self.car is None or self._bar_overflows():
            return super()._render(mode)
        angle = -self.car.hull.angle
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        x, y = self.car.hull.position
        scroll = pygame.math.Vector2((-x * zoom, -y * zoom)).rotate_rad(angle)
        translation = (WINDOW_W / 2 + scroll[0], WINDOW_H / 4 + scroll[1])
        self.surf = self._world
        self._render_road(zoom, translation, angle)
        self.car.draw(self.surf, zoom, translation, angle, draw_particles=False)  # type: ignore[no-untyped-call]
        self.surf = self._bar
        self._render_indicators(WINDOW_W, WINDOW_H)  # type: ignore[no-untyped-call]
        self._render_score()
        return self._shrink()

    def _bar_overflows(self) -> bool:
        """Whether an indicator rises above the bar, which the split drawing of world and bar cannot show."""
        assert self.car is not None
        speed = float(np.hypot(*self.car.hull.linearVelocity))
        return bool(max(0.02 * speed, *(0.01 * wheel.omega for wheel in self.car.wheels)) > 3.9)

    def _render_road(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        # sine and cosine as pygame rotates, with its special cases at right angles
        cos, sin = pygame.math.Vector2(1, 0).rotate_rad(angle)
        self._render_field(zoom, translation, angle, cos, sin)
        if self._shapes_of is not self.road_poly:
            road = np.array([poly for poly, _ in self.road_poly])
            self._shapes = np.concatenate([GRASS, road.transpose(2, 1, 0)], axis=2)
            self._shapes_of = self.road_poly
        x, y = self._shapes
        screen_x = (cos * x - sin * y) * zoom + translation[0]
        screen_y = (sin * x + cos * y) * zoom + translation[1]
        for index in np.flatnonzero(_drawn(screen_x, screen_y)).tolist():
            # colours are read now: a tile's changes in place when it is visited
            color = self.grass_color if index < NUM_GRASS else self.road_poly[index - NUM_GRASS][1]
            points = list(zip(screen_x[:, index].tolist(), screen_y[:, index].tolist(), strict=True))
            rgb = [int(c) for c in color]
            gfxdraw.aapolygon(self.surf, points, rgb)
            gfxdraw.filled_polygon(self.surf, points, rgb)

    def _render_field(
        self, zoom: float, translation: tuple[float, float], angle: float, cos: float, sin: float
    ) -> None:
        """The playfield's ground; a plain fill where its edges are off the screen."""
        across = (np.array([0, WINDOW_W, WINDOW_W, 0]) - translation[0]) / zoom
        up = (np.array([0, 0, WINDOW_H, WINDOW_H]) - translation[1]) / zoom
        reach = np.maximum(np.abs(cos * across + sin * up), np.abs(cos * up - sin * across)).max()
        if (PLAYFIELD - reach) * zoom > 2 * AA_MARGIN:
            self.surf.fill([int(c) for c in self.bg_color])
            return
        self.surf.fill(0)
        b = PLAYFIELD
        field = [(b, b), (b, -b), (-b, -b), (-b, b)]
        self._draw_colored_polygon(  # type: ignore[no-untyped-call]
            self.surf, field, self.bg_color, zoom, translation, angle, clip=False
        )

    def _render_score(self) -> None:
        if self._font is None:
            pygame.font.init()
            self._font = pygame.font.Font(pygame.font.get_default_font(), 42)
        score = f"{self.reward:04.0f}"
        if score != self._text[0]:
            self._text = (score, self._font.render(score, True, (255, 255, 255), (0, 0, 0)))
        text = self._text[1]
        place = text.get_rect()
        place.center = (60, WINDOW_H - WINDOW_H * 2.5 / 40.0)
        self.surf.blit(text, place)

    def _shrink(self) -> NDArray[np.uint8]:
        """World (flipped) over bar, as [96, 96, rgb].

        Smoothscale narrows first and flattens second, with 8 bits between, so the flip may stand between the two, on a
        tenth of the pixels.
        """
        world = self._world.subsurface((0, BAR_H, WINDOW_W, WINDOW_H - BAR_H))
        bar = self._bar.subsurface((0, WINDOW_H - BAR_H, WINDOW_W, BAR_H))
        narrow = pygame.transform.smoothscale(world, (STATE_W, WINDOW_H - BAR_H))
        self._narrow.blit(pygame.transform.flip(narrow, False, True), (0, 0))
        self._narrow.blit(pygame.transform.smoothscale(bar, (STATE_W, BAR_H)), (0, WINDOW_H - BAR_H))
        image: NDArray[np.uint8]
        image = self._create_image_array(self._narrow, (STATE_W, STATE_H))  # type: ignore[no-untyped-call]
        return image


def _drawn(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which polygons ([vertex, polygon] on the screen) stock draws and can be seen above the bar."""
    near = (x >= -MAX_SHAPE_DIM) & (x <= WINDOW_W + MAX_SHAPE_DIM)
    near &= (y >= -MAX_SHAPE_DIM) & (y <= WINDOW_H + MAX_SHAPE_DIM)
    seen = (x.max(0) >= -AA_MARGIN) & (x.min(0) <= WINDOW_W + AA_MARGIN)
    seen &= (y.max(0) >= BAR_H - AA_MARGIN) & (y.min(0) <= WINDOW_H + AA_MARGIN)
    drawn: NDArray[np.bool_] = near.any(0) & seen
    return drawn
