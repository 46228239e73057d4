"""The 14 columns of the serving benchmark's model; nothing but names, because peers' environments read them."""

TEXTS = {"carrier": 8, "origin": 10}  # name → how many values it has
FLOATS = ("wind", "rain", "snow", "pressure", "visibility", "humidity", "temperature", "delay_share")
WHOLE = ("distance", "minute", "seats", "flights")
