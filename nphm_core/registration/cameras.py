"""Pinhole cameras that look at a scan.

A camera lives in scan space, in the scan's own unit. OpenGL's convention: it looks along its -z, +y is up, +x is right
in the picture. The centre of pixel (column i, row j) is (i + 0.5, j + 0.5), row 0 on top.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, its principal point in the middle of the picture."""

    T_camera_scan: Float[ndarray, "4 4"]
    """Rotation and translation from scan space to the camera's frame."""
    focal_px: float
    width: int
    height: int

    @property
    def position(self) -> Float[ndarray, " 3"]:
        """Centre of projection in scan space."""
        return -self.T_camera_scan[:3, :3].T @ self.T_camera_scan[:3, 3]

    @property
    def axes(self) -> Float[ndarray, "3 3"]:
        """Rows: the picture's right, its up and the way back to the viewer, unit vectors in scan space."""
        return self.T_camera_scan[:3, :3]

    def pixel_centres(self) -> Float[ndarray, "n_pixels 2"]:
        """Give the centres of all pixels, row by row."""
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.stack([u.ravel(), v.ravel()], axis=1)

    def rays(self, pixels: Float[ndarray, "n 2"]) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
        """Give origins and unit directions, in scan space, of the rays through points of the picture."""
        local = np.empty((len(pixels), 3))
        local[:, 0] = (pixels[:, 0] - self.width / 2) / self.focal_px
        local[:, 1] = (self.height / 2 - pixels[:, 1]) / self.focal_px
        local[:, 2] = -1
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        return np.broadcast_to(self.position, local.shape), local @ self.axes

    def project(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 2"]:
        """Give the place in the picture of points in scan space; points behind the camera give nan."""
        local = points @ self.axes.T + self.T_camera_scan[:3, 3]
        depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
        u = self.width / 2 + self.focal_px * local[:, 0] / depth
        v = self.height / 2 - self.focal_px * local[:, 1] / depth
        return np.stack([u, v], axis=1)

    def depth(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
        """Give distances along the line of sight's axis, in the scan's unit."""
        return -(points @ self.axes[2] + self.T_camera_scan[2, 3])

    def upside_down(self) -> "Camera":
        """Give the camera turned half around its line of sight."""
        return Camera(np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.T_camera_scan, self.focal_px, self.width, self.height)

    def turned(self, pivot: Float[ndarray, " 3"], yaw_rad: float, pitch_rad: float) -> "Camera":
        """Give the camera after it went around a pivot: by yaw to the picture's right, by pitch upwards."""
        right, up, back = self.axes
        back_yawed = np.cos(yaw_rad) * back + np.sin(yaw_rad) * right
        distance = float(np.linalg.norm(self.position - pivot))
        direction = np.cos(pitch_rad) * back_yawed + np.sin(pitch_rad) * up
        return look_at(pivot, direction, up, distance, self.focal_px, self.width, self.height)


def look_at(
    target: Float[ndarray, " 3"],
    direction: Float[ndarray, " 3"],
    up: Float[ndarray, " 3"],
    distance: float,
    focal_px: float,
    width: int,
    height: int,
) -> Camera:
    """Give the camera that stands off a target, in a direction from it, and looks at it.

    `up` need not be orthogonal to the direction, but not parallel either.
    """
    back = direction / np.linalg.norm(direction)
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back])
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = -axes @ (target + distance * back)
    return Camera(matrix, float(focal_px), int(width), int(height))


def framing(
    target: Float[ndarray, " 3"],
    direction: Float[ndarray, " 3"],
    up: Float[ndarray, " 3"],
    *,
    height: float,
    fov_rad: float,
    pixels: int,
) -> Camera:
    """Give the camera of a square picture that shows `height` scan units at the target's distance."""
    distance = height / 2 / np.tan(fov_rad / 2)
    return look_at(target, direction, up, distance, pixels / 2 / np.tan(fov_rad / 2), pixels, pixels)
