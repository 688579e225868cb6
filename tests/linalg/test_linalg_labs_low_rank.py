"""The low-rank lab runs, and its numbers are what it claims."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.test_labs import lab


@pytest.mark.covers("svd-image-compression")
def test_svd_image_compression():
    module = lab("svd_image_compression")
    rows = module.main()
    for row in rows.values():
        assert row["psnr"] == pytest.approx(row["predicted"], abs=1e-6)  # the formula from the discarded values
    psnr = [row["psnr"] for row in rows.values()]
    assert np.all(np.diff(psnr) > 0)  # monotone in k
    image = module.picture(1)[::8, ::8]
    m, n, _ = image.shape
    k = 10
    approximation = module.compress(image, k)
    assert np.linalg.matrix_rank(approximation[..., 0]) == k
    stored = m * k + k + k * n  # U, the values and V, a channel
    assert module.ratio(m, n, k) == pytest.approx(stored / (m * n))
    errors = [module.psnr(image, module.compress(image, k)) for k in (1, 5, 20)]
    assert errors == sorted(errors)
