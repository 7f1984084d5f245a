"""Scores of variants, from one allele to a whole VCF."""
