"""Tokenizers: sequence letters to ids and back."""

# transformers comes first: its loading registers our classes (crossdna._autoclasses),
# which must not happen halfway through the import of one of them.
import transformers  # noqa: F401
