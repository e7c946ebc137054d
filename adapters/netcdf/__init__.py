"""NetCDF files, classic and HDF5, in and out."""
