"""Two-site DMRG: exact diagonalisation, free fermions, certificates against the dense truth, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from corollary.core import InputError, Status
from corollary.linalg.tensor import (
    TensorTrain,
    TensorTrainMatrix,
    _dmrg_sweep,
    dmrg,
    entanglement_entropy,
    expectation,
    heisenberg_mpo,
    ising_mpo,
    matrix_product_state,
    mpo_of_terms,
)
from corollary.linalg.tensor._mpo import IY, X, Z
from tests.core.test_labs import lab

KEY = jax.random.key(0)
Y = -1j * IY


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal(n)


def free_fermions(n, J, h):
    """Ground energy of the open Ising chain and its half-chain entropy, from the singular values of n × n matrices.

    In Majorana operators H = i Σ b_i M_ij a_j with h on M's diagonal and J beside it: E = −Σ σ(M), and a block of the
    first sites has the correlations of the corner of U Vᵀ (Latorre, Rico & Vidal, 2004).
    """
    U, s, Vt = np.linalg.svd(np.diag(np.full(n, h)) + np.diag(np.full(n - 1, J), 1))
    nu = np.minimum(np.linalg.svd((U @ Vt)[: n // 2, : n // 2], compute_uv=False), 1)
    p = np.stack([(1 + nu) / 2, (1 - nu) / 2])
    return -s.sum(), -np.sum(p[p > 0] * np.log(p[p > 0]))


def chiral(n):
    """A complex Hermitian chain: XX exchange with a Dzyaloshinskii-Moriya term and fields of all directions."""
    terms = [(1.0, {k: X, k + 1: X}) for k in range(n - 1)]
    terms += [(0.7, {k: X, k + 1: Y}) for k in range(n - 1)] + [(-0.7, {k: Y, k + 1: X}) for k in range(n - 1)]
    return mpo_of_terms(n, terms + [(0.3 * (k + 1), {k: Y}) for k in range(n)] + [(0.2, {k: Z}) for k in range(n)])


def long_range(n):
    """Every pair interacts: the operator's rank grows with n."""
    terms = [(1 / (j - i) ** 2, {i: Z, j: Z}) for i in range(n) for j in range(i + 1, n)]
    return mpo_of_terms(n, [*terms, *((-0.6, {k: X}) for k in range(n)), (5.0, {})])


def certified(found, H):
    """Every certificate against the dense truth."""
    dense = H.to_dense()
    psi = found.value.state.to_dense().ravel()
    values = np.linalg.eigvalsh(dense)
    eps = float(64 * np.finfo(psi.dtype).eps * np.abs(values).max())
    energy = float(found.value.energy)
    assert np.linalg.norm(psi) == pytest.approx(1, abs=eps)
    assert energy >= values[0] - eps
    assert energy == pytest.approx(np.vdot(psi, dense @ psi).real, abs=eps)
    residual = np.linalg.norm(dense @ psi - energy * psi)
    assert float(found.certificates["residual"].measured) == pytest.approx(residual, abs=eps)
    assert np.min(np.abs(values - energy)) <= found.stats["eigenvalue_error"]  # Weinstein
    assert bool(found.certificates["isometry"].holds)
    return energy - values[0]


@pytest.mark.covers("dmrg")
@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (lambda n: ising_mpo(n, 1.0, 0.5 + 0.1 * np.arange(n)), (2, 3, 5, 8)),
        (lambda n: heisenberg_mpo(n, 1.0, 1.0, 0.5, 0.2), (2, 4, 7, 10)),
        (chiral, (2, 6)),
        (long_range, (6,)),
    ],
)
def test_exact_diagonalisation(make, sites):
    for n in sites:
        H = make(n)
        found = dmrg(H, rank=16, tol=1e-12, key=KEY)
        assert bool(found.converged)
        if n <= 8:  # no bond needs more than 16: nothing is truncated
            assert certified(found, H) <= 1e-11 * n
            assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
        else:
            assert certified(found, H) <= 1e-6
        assert found.value.state.cores[0].dtype == H.cores[0].dtype


@pytest.mark.covers("dmrg")
def test_twelve_sites_by_exact_diagonalisation():
    n, H = 12, heisenberg_mpo(12)
    sparse = sum(
        scipy.sparse.kron(
            scipy.sparse.kron(scipy.sparse.eye_array(2**k), bond), scipy.sparse.eye_array(2 ** (n - k - 2))
        )
        for k, bond in ((k, heisenberg_mpo(2).to_dense()) for k in range(n - 1))
    ).tocsr()
    lowest = scipy.sparse.linalg.eigsh(sparse, 1, which="SA", v0=np.ones(2**n), tol=1e-13)[0][0]
    lowest = min(lowest, scipy.sparse.linalg.eigsh(sparse, 1, which="SA", v0=draw(2**n), tol=1e-13)[0][0])
    found = dmrg(H, rank=32, tol=1e-11, key=KEY, history=True)
    energy, psi = float(found.value.energy), found.value.state.to_dense().ravel()
    assert -1e-11 <= energy - lowest <= 1e-8
    residual = np.linalg.norm(sparse @ psi - energy * psi)
    assert float(found.certificates["residual"].measured) == pytest.approx(residual, abs=1e-12)
    energies = found.history["energy"][: int(found.steps)]
    assert np.all(np.diff(energies) <= 1e-11)
    assert np.all(energies >= lowest - 1e-11)


@pytest.mark.covers("dmrg")
@pytest.mark.parametrize("n", [20, 60, 100])
def test_critical_chain_meets_the_free_fermion_energy(n):
    exact = 1 - 1 / np.sin(np.pi / (2 * (2 * n + 1)))
    assert free_fermions(n, 1.0, 1.0)[0] == pytest.approx(exact, rel=1e-13)
    found = dmrg(ising_mpo(n), rank=32, key=KEY, history=True)
    energy = float(found.value.energy)
    assert energy >= exact * (1 + 1e-13)
    assert energy == pytest.approx(exact, rel=1e-9)
    assert bool(found.converged)
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    energies = found.history["energy"][: int(found.steps)]
    assert np.all(np.diff(energies) <= 1e-12 * abs(exact))  # non-increasing over sweeps
    assert np.all(energies >= exact * (1 + 1e-13))
    assert found.plot().get_lines()
    assert abs(energy - exact) <= found.stats["eigenvalue_error"]


@pytest.mark.covers("dmrg", "entanglement-entropy")
@pytest.mark.parametrize("h", [1.2, 2.0])
def test_energy_entropy_and_magnetisation_off_the_critical_point(h):
    n = 30
    energy, entropy = free_fermions(n, 1.0, h)
    found = dmrg(ising_mpo(n, 1.0, h), rank=16, tol=1e-12, key=KEY)
    assert float(found.value.energy) == pytest.approx(energy, rel=1e-11)
    state = found.value.state
    assert float(entanglement_entropy(state, n // 2).value.entropy) == pytest.approx(entropy, abs=1e-6)
    step = 1e-4  # Σ⟨X⟩ = −dE/dh
    slope = (free_fermions(n, 1.0, h + step)[0] - free_fermions(n, 1.0, h - step)[0]) / (2 * step)
    assert sum(float(expectation(state, {k: X})) for k in range(n)) == pytest.approx(-slope, rel=1e-6)
    assert float(expectation(state, ising_mpo(n, 1.0, h))) == pytest.approx(energy, rel=1e-11)


@pytest.mark.covers("dmrg")
def test_what_the_rank_cannot_hold_is_said():
    H = ising_mpo(10)
    exact = np.linalg.eigvalsh(H.to_dense())[0]
    errors = []
    for rank in (1, 2, 4, 8):
        found = dmrg(H, rank=rank, key=KEY, history=True)
        errors.append(certified(found, H))
        assert max(found.value.state.rank) <= rank
        assert float(found.value.energy) == np.nanmin(found.history["energy"])
        assert bool(found.certificates["monotone"].holds)
        assert float(found.value.energy) >= exact
    assert np.all(np.diff(errors) < 0)
    crude = dmrg(H, rank=2, key=KEY)
    assert not bool(crude.certificates["truncation"].holds)
    assert not bool(crude.holds)
    short = dmrg(H, rank=16, key=KEY, max_sweeps=1)
    assert int(short.status) == Status.MAX_STEPS
    assert int(short.steps) == 1


@pytest.mark.covers("dmrg")
def test_single_precision_is_honest():
    H = jax.tree.map(lambda x: x.astype(np.float32), heisenberg_mpo(8))
    found = dmrg(H, rank=16, key=KEY)
    assert certified(found, H) <= 1e-4
    assert bool(found.holds), {n: c.explain() for n, c in found.certificates.items()}
    assert {c.dtype for c in found.value.state.cores} == {np.dtype(np.float32)}
    tight = dmrg(H, rank=16, tol=1e-12, key=KEY)
    assert int(tight.status) in (Status.PRECISION, Status.CONVERGED)


@pytest.mark.covers("dmrg")
def test_scale_shift_start_and_form_of_input(x64):
    H = ising_mpo(8, 1.0, 1.5)
    plain = dmrg(H, rank=16, key=KEY)
    energy = float(plain.value.energy)
    for scale in (1e-150, 1e-12, 1e12, 1e150):
        scaled = TensorTrainMatrix((H.cores[0] * scale, *H.cores[1:]))
        found = dmrg(scaled, rank=16, key=KEY)
        assert float(found.value.energy) == pytest.approx(energy * scale, rel=1e-10)
        assert int(found.steps) == int(plain.steps)
        assert bool(found.holds)
    again = dmrg(H, rank=16, start=plain.value.state)
    assert int(again.steps) <= 2
    assert float(again.value.energy) == pytest.approx(energy, rel=1e-12)
    neel = matrix_product_state(np.eye(2**8)[0b01010101]).value
    assert float(dmrg(H, rank=16, start=neel).value.energy) == pytest.approx(energy, rel=1e-10)
    device = dmrg(jax.tree.map(jnp.asarray, H), rank=16, key=KEY)
    assert isinstance(device.value.energy, jax.Array)
    assert float(device.value.energy) == energy
    assert isinstance(plain.value.state.cores[0], np.ndarray)


@pytest.mark.covers("dmrg")
def test_edge_cases():
    zero = TensorTrainMatrix(tuple(0 * c for c in ising_mpo(4).cores))
    found = dmrg(zero, rank=4, key=KEY)
    assert float(found.value.energy) == 0
    assert bool(found.converged)
    identity = mpo_of_terms(5, [(-2.0, {})])
    assert float(dmrg(identity, rank=4, key=KEY).value.energy) == pytest.approx(-10 / 5, abs=1e-13)
    one = dmrg(ising_mpo(1, 1.0, 0.5), rank=4, key=KEY)
    assert float(one.value.energy) == pytest.approx(-0.5)
    assert one.value.state.rank == (1, 1)
    assert bool(one.holds)
    spin_one = np.diag([1.0, 0.0, -1.0])
    mixed = mpo_of_terms(
        (2, 3, 2, 1), [(1.0, {0: Z, 1: spin_one}), (0.5, {1: spin_one @ spin_one, 2: X}), (0.3, {0: X})]
    )
    assert certified(dmrg(mixed, rank=8, key=KEY), mixed) <= 1e-10
    product = mpo_of_terms(6, [(0.5 + k, {k: X}) for k in range(6)])  # no interaction: a product state, bonds one
    found = dmrg(product, rank=8, key=KEY)
    assert float(found.value.energy) == pytest.approx(-18.0, abs=1e-10)
    assert float(entanglement_entropy(found.value.state, 3).value.entropy) <= 1e-10


@pytest.mark.covers("dmrg")
def test_chains_of_other_lengths_ranks_and_fields_share_one_program():
    before = _dmrg_sweep.sweep._cache_size()
    dmrg(ising_mpo(9, 0.3, 1.1), rank=7, key=KEY)
    after = _dmrg_sweep.sweep._cache_size()
    for n, rank in ((5, 4), (13, 16), (33, 11)):
        dmrg(ising_mpo(n, 1.0, 2.0), rank=rank, key=KEY, tol=1e-6)
    assert _dmrg_sweep.sweep._cache_size() == after <= before + 1


def test_lanczos_is_exact_where_it_has_the_steps(dtype):
    # Zero rows beyond the true size, as a sweep has them: the Krylov space must not see them.
    run = jax.jit(lambda A, start, tol: _dmrg_sweep.lanczos(lambda v: A @ v, start, 8, tol))
    for n in (1, 2, 5, 8):
        A = draw((n, n), n).astype(dtype)
        A = A + A.T + 30 * np.eye(n, dtype=dtype)  # all eigenvalues above the zeros
        padded, start = np.zeros((8, 8), dtype), np.zeros((8, 1), dtype)
        padded[:n, :n], start[:n] = A, draw((n, 1))
        eps = float(64 * np.finfo(dtype).eps) * 40
        value, first, vector, steps = run(padded, start, np.asarray(eps / 8, dtype))
        assert float(value) == pytest.approx(np.linalg.eigvalsh(A)[0], abs=eps)
        assert float(first) == pytest.approx(float((start.T @ padded @ start)[0, 0] / (start.T @ start)[0, 0]), abs=eps)
        assert float(np.linalg.norm(padded @ vector - value * vector)) <= eps
        assert np.all(np.asarray(vector)[n:] == 0)
        assert int(steps) <= n


@pytest.mark.covers("area-law")
def test_area_law():
    module = lab("area_law")
    numbers = module.main()
    gapped, critical, random = (numbers[kind] for kind in ("gapped", "critical", "random"))
    for kind, h in ((gapped, 2.0), (critical, 1.0)):
        for n, (entropy, _) in kind.items():
            assert entropy == pytest.approx(free_fermions(n, 1.0, h)[1], abs=1e-6)
    saturated = [gapped[n][0] for n in (16, 32, 64)]
    assert max(saturated) - min(saturated) <= 1e-6
    assert len({bond for _, bond in gapped.values()}) == 1
    # (1/12) log n: the remaining corrections to the fit are O(1/n²) of the smallest chain
    assert numbers["slope"] == pytest.approx(1 / 12, rel=0.02)
    doubling = np.diff([critical[n][0] for n in module.SIZES]) / math.log(2)
    assert np.all(np.diff(np.abs(doubling - 1 / 12)) < 0)  # towards the law, from above
    assert critical[64][1] > critical[8][1]
    for n, (entropy, bond) in random.items():
        # twenty draws; a single one's spread is below 1/2^{n/2}
        assert entropy == pytest.approx(module.page(n), abs=4 * 2 ** (-n / 2) / math.sqrt(20))
        assert bond == 2 ** (n // 2)
    steps = np.diff([random[n][0] for n in module.RANDOM])
    np.testing.assert_allclose(steps, math.log(2), atol=0.1)  # linear: log 2 for each two sites


@pytest.mark.parametrize(
    ("mpo", "settings", "match"),
    [
        (ising_mpo(4), {"rank": 0}, "rank: found 0"),
        (ising_mpo(4), {"rank": 2.5}, "rank: found 2.5"),
        (ising_mpo(4), {"rank": 2, "tol": -1.0}, "tol: found -1"),
        (ising_mpo(4), {"rank": 2, "tol": 2.0}, "tol: found 2"),
        (ising_mpo(4), {"rank": 2, "max_sweeps": 0}, "max_sweeps: found 0"),
        (ising_mpo(4), {"rank": 2, "key": None}, "key: found None"),
        (ising_mpo(4).to_dense(), {"rank": 2}, "mpo: found ndarray"),
        (mpo_of_terms(3, [(1.0, {0: IY})]), {"rank": 2}, "expected a Hermitian operator"),
        (mpo_of_terms(3, [(1j, {0: X, 2: Z})]), {"rank": 2}, "expected a Hermitian operator"),
        (TensorTrainMatrix((np.ones((1, 2, 3, 1)),)), {"rank": 2}, "mpo: found rows"),
        (TensorTrainMatrix((np.ones((1, 2, 2, 2)), np.ones((3, 2, 2, 1)))), {"rank": 2}, "mpo: found shapes"),
        (TensorTrainMatrix((np.full((1, 2, 2, 1), np.nan),)), {"rank": 2}, "found NaN"),
        (TensorTrainMatrix(()), {"rank": 2}, "mpo: found tuple"),
        (ising_mpo(2), {"rank": 2, "start": TensorTrain((np.ones((1, 2, 1)),))}, "start: found sites"),
        (ising_mpo(2), {"rank": 2, "start": TensorTrain((np.zeros((1, 2, 1)), np.ones((1, 2, 1))))}, "zero state"),
    ],
)
def test_bad_input(mpo, settings, match):
    with pytest.raises(InputError, match=match):
        dmrg(mpo, **{"key": KEY} | settings)
