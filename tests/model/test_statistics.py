"""Intervals cover what they should, p-values are uniform where there is no difference, and small cases by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from model.statistics import EXACT_RANKS_UP_TO, EXACT_UP_TO, bootstrap_interval, holm, sign_flip_test, signed_rank_test

WHOLE = st.integers(-20, 20).map(float)


def columns(rows):
    return arrays(np.float64, st.tuples(rows, st.integers(1, 3)), elements=WHOLE)


@given(columns(st.integers(1, 9)))
def test_the_exact_test_counts_every_sign_pattern(differences):
    patterns = np.array(list(product((-1, 1), repeat=len(differences))))
    expected = (np.abs(patterns @ differences) >= np.abs(differences.sum(0))).mean(0)
    np.testing.assert_allclose(sign_flip_test(differences), expected)


def test_known_p_values():
    same_sign = np.linspace(0.1, 0.2, 10)[:, None]
    assert sign_flip_test(same_sign) == pytest.approx(2 / 2**10)
    assert sign_flip_test(np.zeros((5, 1))) == 1
    assert sign_flip_test(np.array([[0.3], [-0.3]])) == 1


@pytest.mark.parametrize("rows", [8, 35])
def test_the_test_is_scipys(rows):
    differences = np.random.default_rng(rows).normal(0.3, 1, (rows, 4))
    theirs = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda x, y, axis: np.mean(x - y, axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    ).pvalue
    np.testing.assert_allclose(sign_flip_test(differences), theirs, atol=1e-12 if rows <= EXACT_UP_TO else 0.015)


@pytest.mark.parametrize("rows", [EXACT_UP_TO - 6, EXACT_UP_TO + 10])
def test_p_is_uniform_where_nothing_differs(rows):
    p = sign_flip_test(np.random.default_rng(7).standard_t(3, (rows, 1500)))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.015)


@given(columns(st.integers(1, 12)), st.sampled_from([0.25, 4.0, -1.0]))
def test_neither_scale_nor_sign_changes_p(differences, factor):
    p = sign_flip_test(differences)
    assert ((p > 0) & (p <= 1)).all()
    np.testing.assert_array_equal(sign_flip_test(differences * factor), p)


@pytest.mark.parametrize(("rows", "least"), [(10, 0.89), (35, 0.93)])
def test_the_interval_covers_the_mean_of_independent_pairs(rows, least):
    low, high = bootstrap_interval(np.random.default_rng(3).normal(5, 2, (rows, 1500)))
    assert least < np.mean((low < 5) & (high > 5)) < 0.96


@pytest.mark.parametrize(("subjects", "promised"), [(3, 0.81), (7, 0.90)])
def test_only_the_interval_by_subject_covers_the_mean_of_correlated_slices(subjects, promised):
    generator = np.random.default_rng(5)
    values = generator.normal(size=(subjects, 1500)).repeat(5, axis=0)
    values += 0.5 * generator.normal(size=values.shape)
    groups = [str(row // 5) for row in range(5 * subjects)]
    covered = {}
    for name, labels in (("pairs", None), ("subjects", groups)):
        low, high = bootstrap_interval(values, labels)
        covered[name] = np.mean((low < 0) & (high > 0))
    assert covered["subjects"] == pytest.approx(promised, abs=0.03)
    assert covered["pairs"] < 0.65


@given(columns(st.integers(2, 12)), st.integers(-50, 50))
def test_the_interval_holds_the_mean_moves_with_the_data_and_is_the_same_again(values, shift):
    low, high = bootstrap_interval(values)
    assert (low <= values.mean(0) + 1e-9).all() and (high >= values.mean(0) - 1e-9).all()
    again = bootstrap_interval(values + shift)
    np.testing.assert_allclose(again, (low + shift, high + shift), atol=1e-9)
    np.testing.assert_array_equal(bootstrap_interval(values), (low, high))


def test_groups_of_one_are_rows_and_one_group_has_no_interval():
    values = np.random.default_rng(0).normal(size=(6, 2))
    for end, other in zip(bootstrap_interval(values), bootstrap_interval(values, list("abcdef")), strict=True):
        np.testing.assert_allclose(end, other)
    with pytest.raises(ValueError, match="1 rows or groups"):
        bootstrap_interval(values, ["a"] * 6)


def test_groups_of_unequal_size_weigh_by_their_rows():
    """By hand: two groups of 3 rows at 0 and 1 row at 4; the resampled means are 0, 1 and 4."""
    low, high = bootstrap_interval(np.array([[0.0], [0], [0], [4]]), ["a", "a", "a", "b"])
    assert (low, high) == pytest.approx((1 - 2**0.5, 1 + 3 * 2**0.5))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lowers_none_and_keeps_the_order(p):
    adjusted = holm(p)
    assert all(raw <= new <= 1 for raw, new in zip(p, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p, kind="stable")] == sorted(adjusted)
    assert min(adjusted) == pytest.approx(min(1, min(p) * len(p)))


@pytest.mark.parametrize("rows", [1, 4, 5, EXACT_RANKS_UP_TO, EXACT_RANKS_UP_TO + 1, 400])
def test_the_signed_rank_test_is_scipys_where_there_are_no_ties(rows):
    for seed in range(5):
        differences = np.random.default_rng([seed, rows]).normal(0.1, 1, rows)
        exact = "exact" if rows <= EXACT_RANKS_UP_TO else "asymptotic"
        theirs = stats.wilcoxon(differences, alternative="greater", method=exact, correction=True).pvalue
        assert signed_rank_test(differences) == pytest.approx(theirs, rel=1e-9)


@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=8))
def test_ties_and_zeros_only_ever_raise_its_p(magnitudes):
    patterns = product((-1, 1), repeat=len(magnitudes))
    p = np.array([signed_rank_test(np.multiply(signs, magnitudes)) for signs in patterns])
    for value in np.unique(p):
        assert np.mean(p <= value) <= value + 1e-12


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.data())
def test_larger_differences_never_raise_its_p(differences, data):
    gains = data.draw(st.lists(st.floats(0, 1), min_size=len(differences), max_size=len(differences)))
    assert signed_rank_test(np.add(differences, gains)) <= signed_rank_test(differences)


def test_no_difference_has_no_significance():
    assert signed_rank_test([]) == signed_rank_test([0.0] * 20) == 1
    assert signed_rank_test([0.0] * 80) == pytest.approx(1)
