"""The only room that knows Qt and napari: docks, layer adapters, one background-job adapter."""
