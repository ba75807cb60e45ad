"""What English questions of training are composed of, by name; the words around them are in `phrasings`."""

# behind "tell me" and the like, in the order of statements
CLAUSES = {
    "what": """
        what is in the picture|what you see|what you can see|what the picture shows|what there is in the picture
        |what things are in the picture|what is shown here|which things there are|what this is a picture of
        |what is drawn here|what objects are in the picture|what can be seen here|what the picture contains
        |what is in it
    """,
    "count": """
        how many {s} there are|how many {s} are in the picture|how many {s} you see|how many {s} you can see
        |how many {s} the picture shows|the number of {s}|how many {s} you can count
    """,
    "count all": """
        how many things there are|how many objects there are|how many things are in the picture
        |how many objects you see|the number of things|how many items are in the picture
        |how many things you can count
    """,
    "exists": """
        if there is {n}|whether there is {n}|if there are any {s}|if you see {n}|whether you can see {n}
        |whether there are any {s}|if the picture shows {n}|if {n} is in the picture
    """,
    "where": """
        where {x} is|where you see {x}|where I can find {x}|where {x} is located|in which part of the picture {x} is
        |the position of {x}|where exactly {x} is|where in the picture {x} is|where {x} is placed
        |which part of the picture {x} is in
    """,
    "where all": """
        where {x} are|where {q} are|the positions of {x}|where I can find {x}|where {x} are located
    """,
    "where?": "if {x} is {p}|whether {x} is {p}|if you see {x} {p}|whether {x} is located {p}",
    "place": """
        what is {p}|what you see {p}|what there is {p}|what can be seen {p}|which thing is {p}|what is drawn {p}
        |what is shown {p}|which object is {p}
    """,
    "side": """
        what is {p}|what you see {p}|what there is {p}|which things are {p}|what can be seen {p}
        |which objects are {p}
    """,
    "relation": """
        what is {r} {x}|what you see {r} {x}|which thing is {r} {x}|what there is {r} {x}|which objects are {r} {x}
        |what can be seen {r} {x}
    """,
    "beside": """
        what is next to {x}|what is near {x}|what is beside {x}|what you see next to {x}
        |which things are next to {x}|what is close to {x}|what there is beside {x}|which objects are near {x}
    """,
    "relation?": "if {x} is {r} {y}|whether {x} is {r} {y}|whether {x} stands {r} {y}",
    "near?": """
        if {x} is next to {y}|whether {x} is near {y}|whether {x} is next to {y}
        |if {x} and {y} are next to each other
    """,
    "relation of": """
        where {x} is relative to {y}|where {x} is as seen from {y}|on which side of {y} {x} is
        |where {x} is in relation to {y}|in which direction from {y} {x} is|the position of {x} relative to {y}
        |where {x} stands compared to {y}
    """,
    "bigger": """
        which is bigger, {x} or {y}|which one is larger, {x} or {y}|if {x} or {y} is bigger
        |which of {x} and {y} is bigger|what is bigger, {x} or {y}
    """,
    "smaller": """
        which is smaller, {x} or {y}|which one is smaller, {x} or {y}|if {x} or {y} is smaller
        |which of {x} and {y} is smaller
    """,
    "bigger of two": "which is bigger|which one is larger|which of the two is bigger",
    "smaller of two": "which is smaller|which one is smaller|which of the two is smaller",
    "bigger?": "if {x} is bigger than {y}|whether {x} is larger than {y}",
    "smaller?": "if {x} is smaller than {y}|whether {x} is smaller than {y}",
    "same?": """
        if {x} and {y} are the same size|whether {x} and {y} are equally big|whether {x} is as big as {y}
    """,
    "biggest": """
        which thing is the biggest|what the biggest thing is|which is the largest|which one is the biggest
        |the biggest thing|which object is the largest
    """,
    "smallest": """
        which thing is the smallest|what the smallest thing is|which is the smallest|which one is the smallest
        |the smallest thing|which object is the smallest
    """,
    "large?": "if {x} is large|whether {x} is big|if {x} is big|whether {x} is a large one",
    "small?": "if {x} is small|whether {x} is small|if {x} is little|whether {x} is a small one",
    "size": """
        if {x} is large or small|whether {x} is big or small|how big {x} is|the size of {x}|what size {x} is
        |how large {x} is|whether {x} is large or small
    """,
    "background": """
        what the background is|what is in the background|what the background shows|what you see in the background
        |what kind of background it is|what is behind the things
    """,
    "background?": "if the background is {b}|whether {b} is in the background",
    "background colour?": """
        if the background is {b}|whether the background is {b}|whether the colour of the background is {b}
    """,
    "on background?": "if {x} is {b}|whether {x} is {b}|whether you see {x} {b}",
    "background colour": """
        what colour the background is|the colour of the background|which color the background has
        |what color the background is|which colour the background is
    """,
    "kind": """
        what kind of thing {x} is|what sort of thing {x} is|what type of thing {x} is|what category {x} belongs to
        |to which group of things {x} belongs
    """,
    "kind of two": "if {x} is {k} or {l}|whether {x} is {k} or {l}",
    "kind?": "if {x} is {k}|whether {x} is {k}|whether {x} counts as {k}",
    "kind at": "what kind of thing is {p}|what sort of thing is {p}",
    "which": """
        which {s} there are|what {s} you see|which {s} are in the picture|which {s} you can see
        |which {s} the picture shows|what {s} there are
    """,
    "which is": """
        which of these is {k}|which one is {k}|which things are {s}|which of the things is {k}|what here is {k}
    """,
    "fly?": "if {x} can fly|whether {x} can fly|whether {x} is able to fly",
    "eat?": "if {x} can be eaten|whether I can eat {x}|if {x} is edible|whether {x} can be eaten",
    "water?": "if {x} lives in water|whether {x} lives in water",
    "wheels?": "if {x} has wheels|whether {x} has wheels|whether {x} has any wheels",
    "fly": """
        what can fly|which of these can fly|which things can fly|which ones can fly|what here is able to fly
    """,
    "eat": """
        what can be eaten|which of these can be eaten|what I can eat|which things are edible|which ones can be eaten
    """,
    "water": """
        what lives in water|which of these live in water|which things live in water|which ones live in the water
    """,
    "wheels": "what has wheels|which of these have wheels|which things have wheels|which one has wheels",
    "colour": """
        what colour {x} is|the colour of {x}|what color {x} is|which colour {x} has|the color of {x}
        |which color {x} is
    """,
    "colour?": "if {x} is {c}|whether {x} is {c}|whether the colour of {x} is {c}",
    "of colour": """
        what is {c}|which things are {c}|which of these is {c}|which objects are {c}|which one is {c}
        |what here is {c}
    """,
    "shape": """
        what shape {x} is|what shape {x} has|the shape of {x}|which shape is {c}|what kind of shape {x} is
        |what form {x} has
    """,
    "shape?": "if {x} is {k}|whether {x} is {k}",
}

# what "is it true that" or "right?" asks about
STATEMENTS = {
    "count?": "there {w} {n}|there {w} {n} in the picture",
    "exists": """
        there is {n}|there is {n} in the picture|the picture shows {n}|there is {n} here|you can see {n}
    """,
    "where?": "{x} is {p}|{x} is located {p}|you see {x} {p}",
    "relation?": "{x} is {r} {y}|{x} stands {r} {y}|{x} is placed {r} {y}",
    "near?": "{x} is next to {y}|{x} is near {y}|{x} is close to {y}|{x} and {y} are next to each other",
    "bigger?": "{x} is bigger than {y}|{x} is larger than {y}|{x} looks bigger than {y}",
    "smaller?": "{x} is smaller than {y}|{x} looks smaller than {y}",
    "same?": "{x} and {y} are the same size|{x} is as big as {y}|{x} and {y} are equally big",
    "large?": "{x} is large|{x} is big|{x} is a large one|{x} looks big",
    "small?": "{x} is small|{x} is little|{x} is a small one|{x} looks small",
    "background?": "the background is {b}|{b} is in the background|the picture has {b} in the background",
    "background colour?": """
        the background is {b}|the colour of the background is {b}|the picture has a {b} background
    """,
    "on background?": "{x} is {b}|{x} is drawn {b}|you see {x} {b}",
    "kind?": "{x} is {k}|{x} counts as {k}|{x} is considered {k}",
    "fly?": "{x} can fly|{x} is able to fly",
    "eat?": "{x} can be eaten|{x} is edible|I can eat {x}",
    "water?": "{x} lives in water|{x} lives in the water",
    "wheels?": "{x} has wheels|{x} has got wheels",
    "colour?": "{x} is {c}|the colour of {x} is {c}|{x} looks {c}",
    "shape?": "{x} is {k}|{x} looks like {k}|the {c} figure is {k}",
}

# behind "please" and the like
TASKS = {
    "what": """
        list the things in the picture|name everything you see|list all the objects in the picture
        |name the things you see|list everything in the picture|name all the objects|say what is in the picture
        |list what you see
    """,
    "description": """
        describe the picture|describe this picture|describe this image|describe the scene
        |give me a description of the picture|tell me about this picture|describe what you see
        |describe the whole picture|describe the picture in detail|describe everything in the picture
        |write a description of the picture|describe the picture for me|describe everything you see
    """,
    "count": "count the {s}|count the {s} in the picture|count all the {s}|say how many {s} there are",
    "count all": """
        count everything|count the things|count the objects in the picture|count all the things you see
    """,
    "where": "locate {x}|show me where {x} is|say where {x} is|point out {x}|give the position of {x}",
    "place": "name the thing {p}|say what is {p}|name what is {p}",
    "side": "name the things {p}|say what is {p}|list the things {p}",
    "relation": "name what is {r} {x}|say what is {r} {x}|list the things {r} {x}",
    "beside": "name what is next to {x}|list the things next to {x}|say what is near {x}",
    "relation of": "say where {x} is relative to {y}",
    "bigger": "compare the sizes of {x} and {y}|say which is bigger, {x} or {y}",
    "smaller": "say which is smaller, {x} or {y}",
    "biggest": """
        name the biggest thing|name the largest thing in the picture|find the biggest thing
        |say which thing is the biggest
    """,
    "smallest": """
        name the smallest thing|name the smallest thing in the picture|find the smallest thing
        |say which thing is the smallest
    """,
    "size": "say if {x} is large or small|give me the size of {x}",
    "background": "describe the background|say what the background is|name the background",
    "background colour": """
        name the colour of the background|say what colour the background is|give me the background colour
    """,
    "kind": "say what kind of thing {x} is|classify {x}",
    "which": """
        name the {s}|list the {s}|name all the {s}|list all the {s} in the picture|name the {s} you see
        |say which {s} there are|find all the {s}
    """,
    "which is": "say which one is {k}|find what is {k}",
    "fly": """
        name the things that can fly|list what can fly|name everything that can fly|say which of them can fly
    """,
    "eat": """
        name the things that can be eaten|name everything you can eat|list what can be eaten
        |say which of them can be eaten
    """,
    "water": "name the things that live in water|name what lives in water|list what lives in water",
    "wheels": """
        name everything with wheels|name the things that have wheels|list what has wheels|say which one has wheels
    """,
    "colour": "name the colour of {x}|say what colour {x} is|give me the color of {x}",
    "of colour": """
        name the {c} things|list the {c} things|name everything that is {c}|say which things are {c}
        |list all {c} objects
    """,
    "shape": "name the shape of {x}|say what shape {x} is",
}
