"""Point clouds: pieces that belong to the scan, and normals where the file has none.

Unlike a mesh's vertices, points that are no part of the scan are removed: a cloud has no triangles that could leave
them out. The order of the others stays.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nphm_core.geometry.components import point_clusters
from nphm_core.geometry.mesh import Mesh

N_NEIGHBOURS = 12
"""Neighbours that give a point's plane; fewer follow noise, more round off the nose."""
_CLUSTER_SPACINGS = 4.0
_SURE_SHARE = 0.1


def select_points(mesh: Mesh, keep: Bool[ndarray, " n"]) -> Mesh:
    """Give a cloud with some of its points."""
    return replace(
        mesh,
        vertices=mesh.vertices[keep],
        normals=None if mesh.normals is None else mesh.normals[keep],
        colours=None if mesh.colours is None else mesh.colours[keep],
    )


def neighbours(points: Float[ndarray, "n 3"]) -> tuple[Float[ndarray, "n k"], Int[ndarray, "n k"]]:
    """Give distances and indices of each point's nearest others, itself left out."""
    from scipy.spatial import cKDTree

    k = min(N_NEIGHBOURS, len(points) - 1)
    distance, index = cKDTree(points).query(points, k=k + 1)
    return distance[:, 1:], index[:, 1:].astype(np.int64)


def keep_large_clusters(mesh: Mesh, spacing: float, min_share: float) -> tuple[Mesh, int, int]:
    """Keep clusters with at least `min_share` of the points; give how many stayed and how many points went.

    `spacing` is the typical distance of neighbours; gaps of four and more of them divide clusters. If no cluster is
    large, all points stay.
    """
    if not spacing > 0:
        return mesh, 1, 0
    label = point_clusters(mesh.vertices, _CLUSTER_SPACINGS * spacing)
    size = np.bincount(label)
    large = size >= min_share * mesh.n_vertices
    keep = large[label]
    if keep.mean() < 0.5:
        return mesh, len(size), 0
    return select_points(mesh, keep), int(large.sum()), int((~keep).sum())


def estimate_normals(points: Float[ndarray, "n 3"], nearest: Int[ndarray, "n k"]) -> Float[ndarray, "n 3"]:
    """Give unit normals of the planes through each point's neighbours; neighbours agree on the side.

    The side spreads along the tree of most parallel neighbours (Hoppe 1992, section 3.3); which of both is outside is
    open.
    """
    local = points[nearest] - points[:, None]
    local -= local.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
    normals = np.ascontiguousarray(vectors[:, :, 0])
    return normals * _agreeing_signs(normals, nearest)[:, None]


def _agreeing_signs(normals: ndarray, nearest: ndarray) -> ndarray:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    n, k = nearest.shape
    rows, columns = np.repeat(np.arange(n), k), nearest.ravel()
    dot = (normals[rows] * normals[columns]).sum(axis=1)
    # Zero would mean that there is no edge.
    graph = csr_matrix((1.0 - np.abs(dot) + 1e-6, (rows, columns)), shape=(n, n))
    tree = minimum_spanning_tree(graph)
    tree = tree + tree.T
    sign = np.ones(n)
    n_trees, label = connected_components(tree, directed=False)
    for first in np.unique(label, return_index=True)[1] if n_trees > 1 else [0]:
        order, before = breadth_first_order(tree, first, directed=False)
        for i in order[1:].tolist():
            j = before[i]
            if sign[j] * (normals[i] @ normals[j]) < 0:
                sign[i] = -1.0
    return sign


def orient_cloud_outwards(mesh: Mesh) -> tuple[Mesh, bool, float]:
    """Turn a cloud's normals if they clearly point to its centre: cloud, whether turned, and flux share.

    The share is 1 for a ball and 0 where inside and outside cannot be told.
    """
    if mesh.normals is None:
        raise ValueError("the cloud has no normals")
    arm = mesh.vertices - mesh.vertices.mean(axis=0)
    share = float((arm * mesh.normals).sum() / max(np.linalg.norm(arm, axis=1).sum(), 1e-300))
    if share < -_SURE_SHARE:
        return replace(mesh, normals=-mesh.normals), True, -share
    return mesh, False, share
