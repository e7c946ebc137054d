"""A local web page that opens archives, coarse to fine: `psc-archive view`."""
