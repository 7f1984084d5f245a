"""The demonstration: stages and the page that they become."""
