"""The slow test of the packages, see scripts/packages-test. Only the standard library: it runs before there is anything."""
