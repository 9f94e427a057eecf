import warnings

# A TIFF cut short makes Pillow warn before it raises; our error says all there is to say.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
