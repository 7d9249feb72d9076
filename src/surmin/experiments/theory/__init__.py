"""Lemma 1 and Theorem 1 on networks small enough for dense matrices."""
