"""Surfaces out of fields: sparse extraction, posed heads, and heads in the template's topology."""
