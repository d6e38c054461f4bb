"""The bundled model files. Installed as ``avsync._models``; holds data only."""
