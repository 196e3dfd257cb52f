"""Reading the lines of an OBJ file into arrays, in one pass of compiled code."""

import numpy as np
from numba import njit

BAD_NUMBER, BAD_INDEX, TOO_FEW_NUMBERS = 1, 2, 3
"""What can be wrong with a line."""

_SPACE, _TAB, _RETURN, _NEWLINE, _SLASH, _HASH, _MINUS, _PLUS, _DOT = 32, 9, 13, 10, 47, 35, 45, 43, 46
_VERTEX, _UV, _NORMAL, _FACE, _MATERIAL, _OTHER = 0, 1, 2, 3, 4, 5


@njit(cache=True, nogil=True)
def _skip_blanks(data, i):
    while i < data.size and (data[i] == _SPACE or data[i] == _TAB or data[i] == _RETURN):
        i += 1
    return i


@njit(cache=True, nogil=True)
def _skip_line(data, i):
    while i < data.size and data[i] != _NEWLINE:
        i += 1
    return i + 1


@njit(cache=True, nogil=True)
def _at_end(data, i):
    return i >= data.size or data[i] == _NEWLINE or data[i] == _HASH


@njit(cache=True, nogil=True)
def _line_kind(data, i):
    """Give the kind of the line at i and where its content starts."""
    n = data.size
    c = data[i]
    following = data[i + 1] if i + 1 < n else _NEWLINE
    blank = following in (_SPACE, _TAB)
    if c == ord("v"):
        if blank:
            return _VERTEX, i + 2
        third = data[i + 2] if i + 2 < n else _NEWLINE
        if third in (_SPACE, _TAB):
            if following == ord("t"):
                return _UV, i + 3
            if following == ord("n"):
                return _NORMAL, i + 3
        return _OTHER, i
    if c == ord("f") and blank:
        return _FACE, i + 2
    if (c == ord("u") and following == ord("s")) or (c == ord("m") and following == ord("t")):
        return _MATERIAL, i
    return _OTHER, i


@njit(cache=True, nogil=True)
def _read_word(data, i):
    """Read nan or inf with any tail, as C libraries print them; code BAD_NUMBER for other words."""
    start = i
    while not _at_end(data, i) and data[i] != _SPACE and data[i] != _TAB and data[i] != _RETURN:
        i += 1
    if i - start >= 3:
        a, b, c = data[start] | 32, data[start + 1] | 32, data[start + 2] | 32
        if a == ord("n") and b == ord("a") and c == ord("n"):
            return np.nan, i, 0
        if a == ord("i") and b == ord("n") and c == ord("f"):
            return np.inf, i, 0
    return 0.0, i, BAD_NUMBER


@njit(cache=True, nogil=True)
def _read_exponent(data, i):
    sign = 1
    if i < data.size and (data[i] == _MINUS or data[i] == _PLUS):
        sign = -1 if data[i] == _MINUS else 1
        i += 1
    start = i
    value = 0
    while i < data.size and 48 <= data[i] <= 57:
        value = min(value * 10 + data[i] - 48, 9999)
        i += 1
    return sign * value, i, 0 if i > start else BAD_NUMBER


@njit(cache=True, nogil=True)
def _scaled(mantissa, exponent):
    # Both factors are exact up to 10^22, so that the result is the nearest float for all usual files.
    if exponent < -300:
        return mantissa * 10.0 ** (exponent + 300) * 1e-300
    if exponent < 0:
        return mantissa / 10.0 ** (-exponent)
    return mantissa * 10.0**exponent


@njit(cache=True, nogil=True)
def _read_number(data, i):
    """Read a decimal number at i: value, where it ends, code."""
    sign = 1.0
    if i < data.size and (data[i] == _MINUS or data[i] == _PLUS):
        sign = -1.0 if data[i] == _MINUS else 1.0
        i += 1
    mantissa, exponent, n_digits, seen_dot = np.int64(0), 0, 0, False
    while i < data.size:
        c = data[i]
        if 48 <= c <= 57:
            n_digits += 1
            if mantissa < 100_000_000_000_000_000:
                mantissa = mantissa * 10 + np.int64(c - 48)
                exponent -= 1 if seen_dot else 0
            else:
                exponent += 0 if seen_dot else 1
        elif c == _DOT and not seen_dot:
            seen_dot = True
        else:
            break
        i += 1
    if n_digits == 0:
        value, i, code = _read_word(data, i)
        return sign * value, i, code
    if i < data.size and (data[i] == ord("e") or data[i] == ord("E")):
        shift, i, code = _read_exponent(data, i + 1)
        if code:
            return 0.0, i, code
        exponent += shift
    if not (_at_end(data, i) or data[i] == _SPACE or data[i] == _TAB or data[i] == _RETURN):
        return 0.0, i, BAD_NUMBER
    return sign * _scaled(float(mantissa), exponent), i, 0


@njit(cache=True, nogil=True)
def _read_row(data, i, row):
    """Read the numbers of a line into `row`: how many, where the line ends, code."""
    count = 0
    i = _skip_blanks(data, i)
    while not _at_end(data, i):
        value, i, code = _read_number(data, i)
        if code:
            return count, i, code
        if count < row.size:
            row[count] = value
        count += 1
        i = _skip_blanks(data, i)
    return count, i, 0


@njit(cache=True, nogil=True)
def _read_index(data, i, n_seen):
    """Read one index of a corner, counted from zero: index (-1 if empty), where it ends, code."""
    sign, value, start = 1, np.int64(0), i
    if i < data.size and data[i] == _MINUS:
        sign, start, i = -1, i + 1, i + 1
    while i < data.size and 48 <= data[i] <= 57:
        value = min(value * 10 + np.int64(data[i] - 48), np.int64(1_000_000_000_000))
        i += 1
    if i == start:
        return np.int64(-1), i, BAD_INDEX if sign < 0 else 0
    index = value - 1 if sign > 0 else n_seen - value
    return index, i, BAD_INDEX if index < 0 else 0


@njit(cache=True, nogil=True)
def _read_corner(data, i, n_vertices, n_uv):
    """Read `v`, `v/t`, `v//n` or `v/t/n`: vertex, texture coordinate (-1 if none), where it ends, code."""
    uv = np.int64(-1)
    vertex, i, code = _read_index(data, i, n_vertices)
    if code or vertex < 0:
        return vertex, uv, i, BAD_INDEX
    if i < data.size and data[i] == _SLASH:
        uv, i, code = _read_index(data, i + 1, n_uv)
        if code == 0 and i < data.size and data[i] == _SLASH:
            _, i, code = _read_index(data, i + 1, np.int64(1) << 40)
    if code == 0 and not (_at_end(data, i) or data[i] == _SPACE or data[i] == _TAB or data[i] == _RETURN):
        code = BAD_INDEX
    return vertex, uv, i, code


@njit(cache=True, nogil=True)
def _read_face(data, i, n_vertices, n_uv, corners):
    """Read the corners of a face into the first rows: how many, where the line ends, code."""
    count, code = 0, 0
    i = _skip_blanks(data, i)
    while code == 0 and not _at_end(data, i):
        vertex, coordinate, i, code = _read_corner(data, i, n_vertices, n_uv)
        corners[count, 0], corners[count, 1] = vertex, coordinate
        count += 1
        i = _skip_blanks(data, i)
    return count, i, code


@njit(cache=True, nogil=True)
def count_lines(data):
    """Count lines by kind (vertex, uv, normal, face, material) and the corners of all faces."""
    counts = np.zeros(7, np.int64)
    i = 0
    while i < data.size:
        i = _skip_blanks(data, i)
        if i >= data.size:
            break
        kind, i = _line_kind(data, i)
        counts[kind] += 1
        if kind == _FACE:
            i = _skip_blanks(data, i)
            while not _at_end(data, i):
                counts[6] += 1
                while not (_at_end(data, i) or data[i] == _SPACE or data[i] == _TAB or data[i] == _RETURN):
                    i += 1
                i = _skip_blanks(data, i)
        i = _skip_line(data, i)
    return counts


@njit(cache=True, nogil=True)
def read_lines(data, vertices, n_numbers, uv, normals, corners, sizes, marks):
    """Fill the arrays that `count_lines` measured.

    `n_numbers` is the count of numbers on each vertex line; `corners` holds vertex and texture coordinate; `marks`
    holds, for each material line, where it starts and how many faces came before. Gives a code (0 if all is well) and
    the position of the line that is wrong.
    """
    at = np.zeros(6, np.int64)
    n_corners = 0
    i = 0
    while i < data.size:
        i = _skip_blanks(data, i)
        if i >= data.size:
            break
        start = i
        kind, i = _line_kind(data, i)
        k = at[kind]
        at[kind] += 1
        code, count, needed = 0, 0, 0
        if kind == _VERTEX:
            count, i, code = _read_row(data, i, vertices[k])
            n_numbers[k], needed = count, 3
        elif kind == _UV:
            count, i, code = _read_row(data, i, uv[k])
            needed = 1
        elif kind == _NORMAL:
            count, i, code = _read_row(data, i, normals[k])
            needed = 3
        elif kind == _MATERIAL:
            marks[k, 0], marks[k, 1] = start, at[_FACE]
        elif kind == _FACE:
            sizes[k], i, code = _read_face(data, i, at[_VERTEX], at[_UV], corners[n_corners:])
            n_corners += sizes[k]
        if code == 0 and count < needed:
            code = TOO_FEW_NUMBERS
        if code:
            return code, start
        i = _skip_line(data, i)
    return 0, 0
