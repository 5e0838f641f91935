"""Tests, as a package: opensimplex installs another one of this name, which would hide a plain folder."""
