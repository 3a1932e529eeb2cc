"""The commands: `daemon` is perfused(8), `control` is perfusectl(8). The outermost room: nothing imports it."""
