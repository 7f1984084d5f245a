"""In-silico mutagenesis, and models as attribution tools want them."""
