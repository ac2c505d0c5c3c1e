"""Slow NumPy oracles of oriented boxes: clip a polygon, edge by edge."""

import numpy as np


def corners(box):
  """[4, 2] of one (cx, cy, w, h, angle)."""
  cx, cy, w, h, angle = map(float, box[:5])
  turn = np.array(
    [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  )
  flat = [[-w, -h], [w, -h], [w, h], [-w, h]]
  return np.array(flat) / 2 @ turn.T + [cx, cy]


def cross(one, other):
  return one[0] * other[1] - one[1] * other[0]


def area(points):
  """Of a polygon with its corners in order."""
  after = points[1:] + points[:1]
  return abs(sum(cross(p, q) for p, q in zip(points, after))) / 2


def intersection(one, other):
  """Sutherland and Hodgman: cut the first by every edge of the other."""
  points, fence = list(corners(one)), corners(other)
  for start, stop in zip(fence, np.roll(fence, -1, 0)):
    side = [cross(stop - start, p - start) for p in points]
    kept = []
    for i, p in enumerate(points):
      q, a, b = points[i - 1], side[i], side[i - 1]
      if (a >= 0) != (b >= 0):
        kept.append(q + (p - q) * (b / (b - a)))
      if a >= 0:
        kept.append(p)
    points = kept
    if len(points) < 3:
      return 0.0
  return area(points)


def iou(one, other):
  both = intersection(one, other)
  return both / (one[2] * one[3] + other[2] * other[3] - both)
