"""Synthetic landscapes: one seeded scene, seen by every sensor.

Geometry: images are [H, W] with row 0 in the north and column 0 in the west.
Pixel (row r, column c) covers [c, c + 1] x [r, r + 1], so its centre is at
x = c + 0.5, y = r + 0.5. Directions on the ground are azimuths, clockwise from
north; angles of boxes are measured from +x towards +y (clockwise on screen).
Everything is a pure function of (options, seed, index).
"""
