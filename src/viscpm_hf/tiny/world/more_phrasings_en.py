"""More ways to put questions in English, for training.

Their words may be unknown to the vocabulary. Bars separate them.
"""

MORE = {
    "what": """
        What objects are in the picture?|Tell me what is in the picture.|Tell me what you see.
        |What is on the picture?|What is here?|What do we see here?|What is in it?|List the things in the picture.
        |Can you tell me what is in the picture?|What does this picture show?|What things can you see?
        |Which objects do you see?|What is pictured here?|What things are there?|What is there?
        |What objects do you see?|What is this a picture of?|What's in this image?|What's this?|What is shown here?
        |What is drawn here?|What do you see here?|Which things do you see?|What are the things in the picture?
        |What objects are there?|What is visible in the picture?|Name everything in the picture.
        |What does this show?|Can you see what is in the picture?|What things do you see?
        |Please list what is in the picture.|What can be seen here?|What can be seen in the picture?
        |What is in there?|So what is in the picture?|What does this image contain?|What does the picture contain?
        |What has been drawn here?|What is depicted here?|What am I looking at?|What do we have here?
        |What all is in the picture?|What's on the picture?|What is it a picture of?
    """,
    "description": """
        Describe this.|Give me a description of the picture.|Please describe the picture in detail.
        |Describe what you see.|Can you describe this picture in detail?|Describe the scene.
        |Please describe what is in the picture.|Tell me about the picture.|Describe everything you see.
        |Could you describe the picture?|Give a description.|Describe it.|Describe it in detail.
        |How would you describe the picture?|I can't see the picture, please describe it for me.
        |What does the picture look like?|I'd like a description of this picture.|A description, please.
        |Please give me a detailed description.
    """,
    "count": """
        Count the {s}.|How many {s} does the picture show?|Tell me how many {s} there are.|How many {s} are here?
        |How many {s} are shown?|How many {s} are there in the picture?|How many {s} are in this picture?
        |Count the {s} in the picture.|How many {s}?|Number of {s}?|{s}: how many?|How many {s} in total?
        |How many {s} in the picture?|How many {s} can you count?|How many {s} can be seen?
        |How many {s} have been drawn?|How many {s} do you find?|How many {s} does it show?
        |How many of the things are {s}?|How many {s} can you see here?|How many {s} exactly?
    """,
    "exists": """
        Is {n} in the picture?|Is there {n} here?|Can you find {n}?|Are there {s} in the picture?
        |Do you see any {s}?|Is {n} there?|Are there any {s} in the picture?|Can you see any {s}?
        |Does the picture have {n}?|Is {n} shown?|Do you see {n} anywhere?|Is there {n} somewhere?|Any {s}?
        |Any {s} here?|Any {s} in the picture?|Are there any {s} here?|Is there any sign of {n}?|Does it show {n}?
        |Does the picture contain {n}?|Does this image contain {n}?|Can {n} be seen?
        |Can {n} be found in the picture?|Has the picture got {n}?|Is {n} anywhere in the picture?
        |Is there {n} or not?|Is there {n} anywhere?|I'm looking for {n}. Is there one?|Did you see {n}?
        |Is {n} visible?|Have you found {n}?|Does this have {n}?|Do you find {n}?|Are {s} in the picture?
        |Is {n} in there?|See any {s}?|Got any {s}?
    """,
    "where": """
        Where's {x}?|Tell me where {x} is.|What is the position of {x}?|Can you tell me where {x} is?
        |Where in this picture is {x}?|What is the place of {x}?|In what part of the picture is {x}?
        |Where do I find {x}?|Where can you see {x}?|Where is {x} in the picture?|Where is {x} placed?
        |Whereabouts is {x}?|Where exactly is {x}?|Where is {x} located?|Where is {x} drawn?
        |Where has {x} been drawn?|Where did you see {x}?|Where can {x} be found?|Where can {x} be seen?
        |Where would I find {x}?|Where should I look for {x}?|In which corner or area is {x}?
        |Which corner or area is {x} in?|Which part of the picture is {x} in?|In what place is {x}?
        |At which position is {x}?|Where does {x} appear?|Where does {x} sit?|{x}: where is it?|Where do we see {x}?
        |Where is {x} exactly?|What part of the picture is {x} in?
    """,
    "where?": """
        Can you see {x} {p}?|Is {x} placed {p}?|Do you see {x} {p}?|Is {x} located {p}?|Is {x} drawn {p}?
        |Is the position of {x} {p}?|Does {x} appear {p}?|Can {x} be found {p}?|Is it {x} that is {p}?
        |Is {x} to be found {p}?|Is {x} {p} or not?|Is {x} really {p}?|Does the picture show {x} {p}?
        |Is {x} somewhere {p}?|Can I find {x} {p}?|Does {x} sit {p}?
    """,
    "side": """
        What's {p}?|What is {p} of the picture?|What is there {p}?|What things are {p}?|What objects are {p}?
        |What can be seen {p}?|What do you find {p}?|What has been drawn {p}?|Which of the things are {p}?
        |What's there {p}?|Which thing is {p}?|Which objects are {p}?|{p}, what is there?|{p}, what do you see?
        |What is shown {p}?|What can be found {p}?|Anything {p}?|Is there anything {p}?
        |Which things can you see {p}?|What is placed {p}?|What does the picture show {p}?|And what is {p}?
    """,
    "beside": """
        What's next to {x}?|What is there next to {x}?|What is near {x}?|Which thing is beside {x}?
        |What stands next to {x}?|What's near {x}?|What's beside {x}?|What's by {x}?|What is by {x}?
        |What is close to {x}?|What's close to {x}?|What is around {x}?|What's around {x}?
        |Which thing is right next to {x}?|Which things are near {x}?|Which thing is close to {x}?
        |What is adjacent to {x}?|Which things are neighbours of {x}?|What do you see beside {x}?
        |What do you see near {x}?|What can you see next to {x}?|What objects are near {x}?
        |Is there anything next to {x}?|Is there anything near {x}?|Anything next to {x}?|What is right next to {x}?
        |What lies next to {x}?|What sits beside {x}?|Who is next to {x}?|What does {x} have next to it?
        |What has been drawn next to {x}?|Which object is beside {x}?|What things are around {x}?
        |Does {x} have anything next to it?
    """,
    "place": """
        What thing is {p}?|Tell me what is {p}.|What is there {p}?|What is shown {p}?|What do I see {p}?
        |Which object is {p}?|Is there anything {p}?|What has been drawn {p}?|What can be found {p}?
        |What can be seen {p}?|What object is {p}?|What object sits {p}?|What do you find {p}?|{p}, what is there?
        |{p}, what do you see?|Who or what is {p}?|What is the thing {p}?|What's the thing {p}?
        |What does the picture show {p}?|Do you see anything {p}?|Is something {p}?|What is drawn {p}?
        |What is located {p}?|What is placed {p}?|Which object do you see {p}?|What sits {p}?|Look {p}: what is it?
        |Anything {p}?|What have we got {p}?|Which one is {p}?
    """,
    "relation": """
        What's {r} {x}?|What thing is {r} {x}?|What objects are {r} {x}?|What things are {r} {x}?
        |What has been drawn {r} {x}?|What object is {r} {x}?|Which objects are {r} {x}?|Which object is {r} {x}?
        |Which thing is {r} {x}?|What can be found {r} {x}?|What can be seen {r} {x}?|What do you find {r} {x}?
        |Looking {r} {x}, what is there?|{r} {x}, what is there?|What stands {r} {x}?|Is there anything {r} {x}?
        |Anything {r} {x}?|Do you see anything {r} {x}?|What is located {r} {x}?|What is placed {r} {x}?
        |Who is {r} {x}?|What does the picture show {r} {x}?|What sits {r} {x}?|Which one is {r} {x}?
        |And what is {r} {x}?
    """,
    "relation?": """
        Is {x} located {r} {y}?|Does {x} lie {r} {y}?|Does {x} stand {r} {y}?|Is {x} to be found {r} {y}?
        |Is {x} drawn {r} {y}?|Is {x} positioned {r} {y}?|Do you see {x} {r} {y}?|Can {x} be seen {r} {y}?
        |Is {x} {r} {y} or not?|Does {x} appear {r} {y}?|Is it {x} that is {r} {y}?|Is {x} really {r} {y}?
        |Does the picture show {x} {r} {y}?|Has {x} been drawn {r} {y}?
    """,
    "relation of": """
        Where is {x} from {y}?|In which direction from {y} is {x}?|Where is {x} compared to {y}?
        |Where is {x} compared with {y}?|Where does {x} stand compared to {y}?|Seen from {y}, where is {x}?
        |From {y}, where is {x}?|What side of {y} is {x} on?|Which side of {y} is {x} on?
        |Where is {x} in relation to {y}?|Where is {x} with respect to {y}?|How is {x} positioned relative to {y}?
        |How is {x} placed relative to {y}?|What is the position of {x} relative to {y}?
        |In what position is {x} relative to {y}?|Which direction is {x} from {y}?
        |In which direction is {x} from {y}?|Where's {x}, as seen from {y}?|Where's {x} relative to {y}?
        |Where do you see {x} relative to {y}?|If I look from {y}, where is {x}?
    """,
    "bigger": """
        Which is larger, {x} or {y}?|Which one is bigger, {x} or {y}?|Is {x} or {y} bigger?
        |Who is bigger, {x} or {y}?|What is larger, {x} or {y}?|Which of the two is bigger, {x} or {y}?
        |Which is the bigger one, {x} or {y}?|Which one looks bigger, {x} or {y}?
        |Between {x} and {y}, which one is bigger?|Between {x} and {y}, which is larger?
        |Of {x} and {y}, which is bigger?|{x} or {y}, which is bigger?|{x} or {y}: which one is larger?
        |Compare the sizes of {x} and {y}.|Which of the two is larger, {x} or {y}?|Who is larger, {x} or {y}?
        |What's bigger, {x} or {y}?|Which is bigger: {x} or {y}?|Which has been drawn bigger, {x} or {y}?
        |Which one is the larger one, {x} or {y}?|Is {x} bigger or {y}?|Which is the bigger of {x} and {y}?
    """,
    "smaller": """
        Which is the smaller one, {x} or {y}?|Is {x} or {y} smaller?|Which one looks smaller, {x} or {y}?
        |Between {x} and {y}, which one is smaller?|Between {x} and {y}, which is smaller?
        |Of {x} and {y}, which is smaller?|{x} or {y}, which is smaller?|What's smaller, {x} or {y}?
        |Which is smaller: {x} or {y}?|Who is smaller, {x} or {y}?|Which of the two is smaller, {x} or {y}?
        |Which has been drawn smaller, {x} or {y}?|Is {x} smaller or {y}?|Which is the smaller of {x} and {y}?
    """,
    "bigger of two": """
        Which is larger?|Which one is larger?|Which of the two is bigger?|Which of the two is larger?
        |Which of them is bigger?|Which of the things is bigger?|Which one looks bigger?|Which is the bigger one?
        |Which of these is bigger?|Of the two, which is bigger?|Which thing is bigger?|Which one is the larger one?
    """,
    "smaller of two": """
        Which is the smaller one?|Which of the two is smaller?|Which of the things is smaller?
        |Which one looks smaller?|Which one is the smaller one?|Which of these is smaller?
        |Of the two, which is smaller?|Which thing is smaller?
    """,
    "bigger?": """
        Is {x} the bigger one, compared with {y}?|Does {x} look bigger than {y}?|Does {x} look larger than {y}?
        |Is {x} drawn bigger than {y}?|Is {x} really bigger than {y}?|Is {x} bigger than {y} or not?
        |Compared with {y}, is {x} bigger?|Compared to {y}, is {x} larger?|Is {x} any bigger than {y}?
    """,
    "smaller?": """
        Is {x} the smaller one, compared with {y}?|Does {x} look smaller than {y}?|Is {x} drawn smaller than {y}?
        |Is {x} really smaller than {y}?|Is {x} smaller than {y} or not?|Compared with {y}, is {x} smaller?
        |Compared to {y}, is {x} smaller?|Is {x} any smaller than {y}?
    """,
    "biggest": """
        What's the biggest thing?|Which is the largest?|What is the largest thing?|What is the biggest?
        |What is the largest object?|What is the biggest object in the picture?|Which object is the biggest?
        |Which object is the largest?|Which thing is the largest?|Of all the things, which is the biggest?
        |Which of the things is the biggest?|Which of them is the largest?|Which of these is the biggest?
        |What is the largest object you see?|What's the largest thing here?|What's the biggest thing in the picture?
        |Which thing is biggest?|Which is the biggest one?
    """,
    "smallest": """
        What's the smallest thing?|What is the smallest?|What is the smallest object?
        |What is the smallest object in the picture?|Which object is the smallest?
        |Of all the things, which is the smallest?|Which of the things is the smallest?
        |Which of them is the smallest?|Which of these is the smallest?|What's the smallest thing here?
        |What's the smallest thing in the picture?|Which thing is smallest?|Which is the smallest one?
    """,
    "size": """
        How large is {x}?|What is the size of {x}?|Which size does {x} have?|Does {x} look big or small?
        |Does {x} look large or small?|Does {x} look big or little?|Is {x} drawn large or small?
        |Would you call {x} large or small?|Would you call {x} big or little?|{x}: large or small?
        |What is {x}, large or small?|Is {x} a large one or a small one?|Is {x} big or little?
        |Is it a large or a small {t}?|Is {x} small or big?|What's the size of {x}?|How big would you say {x} is?
        |What size has {x} got?|Is that a big {t} or a small one?
    """,
    "large?": """
        Does {x} look big?|Is {x} a big one?|Is {x} large in this picture?|Is {x} a big {t}?|Is that a large {t}?
        |Is that a big {t}?|Is this a large {t}?|Is it a large {t}?|Is it a big {t}?|Is {x} drawn large?
        |Is {x} very big?|Is {x} of a large size?|Is {x} really large?|Is {x} large or not?|Does {x} look large?
        |Is {x} quite big?
    """,
    "small?": """
        Is {x} little?|Does {x} look small?|Is {x} small in this picture?|Is {x} a small {t}?|Is that a small {t}?
        |Is that a little {t}?|Is this a small {t}?|Is it a small {t}?|Is it a little {t}?|Is {x} drawn small?
        |Is {x} very small?|Is {x} really small?|Is {x} small or not?|Does {x} look little?|Is {x} tiny?
        |Is {x} a little one?
    """,
    "background": """
        Describe the background.|What is behind everything?|What is behind the things?|What background is it?
        |What kind of background is it?|What background does the picture have?
        |What is the background of the picture?|What is the scene set on?|Where does the scene take place?
        |On what background are the things?|What's in the background?|What's the background?|Which background is it?
        |Which background do you see?|What is the scenery in the background?|What does the background look like?
        |What's behind the things?|What kind of background does the picture have?
        |Which background does the picture have?|What background is this?|What is drawn in the background?
        |What can be seen in the background?|The background: what is it?|What sort of background is it?
        |What have we got in the background?
    """,
    "background?": """
        Is it {b} in the background?|Is that {b} in the background?|Does the picture have {b} in the background?
        |Is there {b} in the background?|Is {b} what is in the background?|Do you see {b} in the background?
        |Is the background of the picture {b}?|Can you see {b} in the background?|Is the background {b} or not?
    """,
    "on background?": """
        Is {x} standing {b}?|Does it show {x} {b}?|Is {x} really {b}?|Was {x} drawn {b}?|Is {x} drawn {b}?
        |Do you see {x} {b}?|Does the picture show {x} {b}?|Is {x} shown {b}?|Is {x} placed {b}?|Is {x} {b} or not?
        |Do we see {x} {b}?|Can {x} be seen {b}?|Is {x} somewhere {b}?|Is {x} to be found {b}?
    """,
    "background colour": """
        What's the color of the background?|Tell me the colour of the background.
        |In which colour is the background drawn?|The background is what color?|The background has which colour?
        |What's the background colour?|What is the background color?|Which color is the background?
        |Which colour is the background?|What color does the background have?|What colour does the background have?
        |What color is behind the things?|What is the colour behind everything?|Background colour?
        |The background: what colour is it?|What colour do you see in the background?
        |What color has the background got?
    """,
    "kind": """
        What type of thing is {x}?|What's {x}?|What category does {x} belong to?|What category is {x}?
        |To which category does {x} belong?|To which group of things does {x} belong?
        |What group of things does {x} belong to?|How would you classify {x}?|What class of thing is {x}?
        |Which kind of thing is {x}?|Which sort of thing is {x}?|What kind of object is {x}?
        |Which type of thing is {x}?|{x} is what kind of thing?|{x} is what sort of thing?
        |What kind of a thing is {x}?
    """,
    "which": """
        Name the {s}.|What {s} can you see?|Tell me which {s} there are.|Which {s} do you see?|What {s} are there?
        |Which {s} does the picture show?|List the {s}.|What are the {s} in the picture?|Name all the {s}.
        |List all the {s}.|What are the {s} here?|Which {s} have been drawn?|Which {s} are shown?
        |Which {s} are here?|What {s} are here?|Which {s} does it show?|What {s} does the picture show?
        |Which {s} do you find?|What {s} do you find?|Which {s} can be seen?|What {s} can be seen?
        |What {s} have been drawn?|Which {s} are in this image?|The {s}: which are they?|What sort of {s} are there?
    """,
    "which is": """
        What is {k} here?|Which thing is {k}?|Which of them are {s}?|What here is {k}?|Which of the things is {k}?
        |Which of the things are {s}?|Which object is {k}?|Which objects are {s}?|What is {k} in the picture?
        |Which one here is {k}?|What in the picture is {k}?|Which of these would be {k}?|Which would you call {k}?
        |Which of the objects is {k}?|Which here are {s}?
    """,
    "fly": """
        What here can fly?|Which things can fly?|Who can fly?|Which of the things can fly?|Anything that can fly?
        |Is there anything that can fly?|Is there anything here that flies?|What flies?|What is able to fly?
        |Which things are able to fly?|What do you see that can fly?|Do you see anything that can fly?
        |Which objects can fly?|What in the picture can fly?|Can anything here fly?|Can any of them fly?
        |Which of them are able to fly?|Which ones can fly?|Does anything fly?
    """,
    "eat": """
        Which one can be eaten?|Which things can I eat?|What here can be eaten?|What can I eat?|What can I eat here?
        |Which things can be eaten?|Which of these can I eat?|Anything edible?|Is anything edible?
        |Is there anything to eat?|Is there anything I can eat?|Anything to eat?|What is edible?
        |Which things are edible?|Which of these are edible?|What could one eat?|I'm hungry, what can I eat?
        |Which things can you eat?|Which of them can you eat?|Can anything here be eaten?|Can any of them be eaten?
        |Which ones can be eaten?|Is there something to eat?|Which of the things can be eaten?
        |What do you see that can be eaten?|What in the picture can be eaten?|Which of them are edible?
        |Which one is edible?
    """,
    "water": """
        Who lives in water?|Which things live in water?|What lives in the water?|Which one lives in water?
        |Which of these live in the water?|Does anything here live in water?|Does any of them live in water?
        |Is there anything that lives in water?|Anything that lives in water?|What do you see that lives in water?
        |Which ones live in water?|Which of the things live in water?|What in the picture lives in water?
        |Which animals live in water?|Which of them live in the water?|Who lives in the water?
    """,
    "wheels": """
        Which things have wheels?|Which one has wheels?|What here has wheels?|Which have wheels?
        |Does anything here have wheels?|Is there anything with wheels?|Anything with wheels?|What has got wheels?
        |What runs on wheels?|Which of the things have wheels?|Which ones have wheels?
        |What do you see that has wheels?|What in the picture has wheels?|Which of them have wheels?
        |Do any of them have wheels?|Which objects have wheels?|Which one has got wheels?
    """,
    "colour": """
        What's the colour of {x}?|Tell me the color of {x}.|What color does {x} have?|Which color is {x}?
        |Which colour is {x}?|What is {x}'s colour?|What's {x}'s color?|{x} is which colour?|{x} is what color?
        |{x}: what colour?|In what colour is {x} drawn?|In which color is {x} drawn?|What color has {x} got?
        |What colour has {x} got?|What colour does {x} have?|What color would you say {x} is?
        |What colour is that {t}?|What color is this {t}?|What colour do you see on {x}?|Colour of {x}?
    """,
    "colour?": """
        Is {x} a {c} one?|Does {x} look {c}?|Is the color of {x} {c}?|Is that a {c} {t}?|Is it a {c} {t}?
        |Is this a {c} {t}?|Is {x} {c} or not?|Is {x} coloured {c}?|Is {x} really {c}?|Would you call {x} {c}?
        |Is {x} drawn in {c}?|Is {c} the colour of {x}?
        |Does {x} have a {c} color?
    """,
    "of colour": """
        What here is {c}?|Which object is {c}?|What things are {c}?|Which of them is {c}?|Is anything {c}?
        |Is anything here {c}?|Anything {c}?|Is there anything {c}?|Is there something {c}?
        |Are there any {c} things?|Do you see anything {c}?|Which objects are {c}?|Which of the things are {c}?
        |Which of the things is {c}?|Which of them are {c}?|Which of these are {c}?|What do you see that is {c}?
        |Is anything {c}, and what?|Which here is {c}?|What in the picture is {c}?|Which of the objects are {c}?
        |Which ones are {c}?|What things here are {c}?|What is coloured {c}?
    """,
    "shape": """
        What is the shape of {x}?|What form does {x} have?|Which shape is {x}?|What shape does {x} have?
        |What form is {x}?|What kind of shape does {x} have?|Which kind of shape is {x}?|What's the shape of {x}?
        |What shape has {x} got?|{x}: what is it?|{x}: what shape is it?|{x} is which shape?|{x} is what shape?
        |What sort of shape is {x}?|What is {x}?|What's {x}?|In what shape is {x} drawn?
        |What shape would you say {x} is?|What shape is the {c} figure?|What shape does the {c} figure have?
        |What geometric shape is {x}?|What geometric shape is {c}?|Which shape is {c}?|What shape is {c}?
        |Which of the shapes is {c}?|What form does the {c} figure have?
    """,
    "other": """
        And what about the other one?|The other one?|And the other thing?|What about the other thing?
        |What about the other?|How about the other one?|How about the other?|How about the other thing?
        |And the second one?|What about the second one?|And what about the other?|Now the other one?
        |Now the other one.|And now the other one?|The other one, please.|So what about the other one?
        |And the one that is left?|Same for the other one?|Same question for the other one.|What of the other one?
        |And the remaining one?
    """,
    "count all": """
        How many things are there?|How many objects are there?|How many items are there?|How many things in total?
        |How many objects in total?|How many items do you see in total?|How many objects can you see?
        |How many objects are in the picture?|How many items are in the picture?
        |How many different things are there?|How many things can you count?|How many things are drawn here?
        |How many objects do you see?|How many objects can you count?|What is the total number of things?
        |Count everything.|Count everything in the picture.|Count the objects.|Number of things?
        |How many things altogether?|How many objects does the picture show?
    """,
    "where all": """
        Where are {x}?|Where are {q}?|Where can {x} be found?|Where do you see {x}?|Where can I find {x}?
        |In which places are {x}?|Where exactly are {x}?|Whereabouts are {x}?|What are the positions of {x}?
        |Where are {q} located?|Where have {x} been drawn?|Tell me where {x} are.|Can you tell me where {x} are?
        |Where in the picture are {x}?
    """,
    "where or": """
        Is {x} {p} or {q}?|Is {x} located {p} or {q}?|Do you see {x} {p} or {q}?|Is {x} placed {p} or {q}?
        |{x}: {p} or {q}?|Would you say {x} is {p} or {q}?|Tell me if {x} is {p} or {q}.|Does {x} appear {p} or {q}?
    """,
    "near?": """
        Is {x} next to {y}?|Is {x} beside {y}?|Is {x} near {y}?|Is {x} close to {y}?|Does {x} stand next to {y}?
        |Is {x} placed next to {y}?|Is {x} right next to {y}?|Is {x} by {y}?|Are {x} and {y} next to each other?
        |Are {x} and {y} close to each other?|Are {x} and {y} neighbours?|Is {x} a neighbour of {y}?
        |Is {x} adjacent to {y}?|Do you see {x} next to {y}?|Does {x} sit beside {y}?|Is {x} next to {y} or not?
    """,
    "relation or": """
        Is {x} {p} or {q} {y}?|Is {x} placed {p} or {q} {y}?|Does {x} stand {p} or {q} {y}?
        |Is {x} located {p} or {q} {y}?|Would you say {x} is {p} or {q} {y}?|Is {x} {r} {y} or {q} it?
        |Tell me: is {x} {p} or {q} {y}?|Tell me: is {x} {r} {y} or {q} it?|Tell me if {x} is {p} or {q} {y}.
        |Do you see {x} {p} or {q} {y}?
    """,
    "same?": """
        Are {x} and {y} the same size?|Are {x} and {y} of the same size?|Are {x} and {y} equally big?
        |Are {x} and {y} equally large?|Is {x} the same size as {y}?|Is {x} as big as {y}?|Is {x} as large as {y}?
        |Do {x} and {y} have the same size?|Do {x} and {y} look the same size?|Does {x} have the same size as {y}?
    """,
    "background colour?": """
        Is the background color {b}?|Is the background colour {b}?|Is the color of the background {b}?
        |Does the picture have a {b} background?|Is it a {b} background?|Is that a {b} background?
        |Is the background {b} or not?|Would you call the background {b}?|Is everything on a {b} background?
        |Does the background look {b}?|Is the background of the picture {b}?|Is the background a {b} one?
        |Do you see a {b} background?|Is it {b} in the background?|Has the picture got a {b} background?
    """,
    "kind of two": """
        What is {x}, {k} or {l}?|Would you call {x} {k} or {l}?|{x}: {k} or {l}?|Do you count {x} as {k} or {l}?
        |Is {x} considered {k} or {l}?|Which is {x}, {k} or {l}?|Would you say {x} is {k} or {l}?
        |Does {x} count as {k} or {l}?|Tell me if {x} is {k} or {l}.
    """,
    "kind?": """
        Do you count {x} as {k}?|Does {x} count as {k}?|Is {x} considered {k}?|Would you call {x} {k}?
        |Can {x} be called {k}?|Can you call {x} {k}?|Is {x} {k} or not?|Is {x} really {k}?
        |Can we say that {x} is {k}?
    """,
    "kind at": """
        What type of thing is {p}?|Which kind of thing is {p}?|What kind of object is {p}?
        |The thing {p}: what kind is it?|What category is the thing {p}?|What sort of object is {p}?
    """,
    "fly?": """
        Is {x} something that flies?|Is {x} something that can fly?|Is {x} capable of flying?|Could {x} fly?
        |Can {x} fly or not?|Is {x} a thing that can fly?|Can {x} really fly?|Is it possible for {x} to fly?
    """,
    "eat?": """
        Is {x} edible?|Can people eat {x}?|Could I eat {x}?|Can one eat {x}?|Can we eat {x}?
        |Is {x} something to eat?|Is {x} something you can eat?|Is it possible to eat {x}?|Is {x} edible or not?
        |Could you eat {x}?|Could {x} be eaten?|Do people eat {x}?
    """,
    "water?": """
        Is {x} living in water?|Is {x} something that lives in water?|Is {x} found living in water?
        |Does {x} live in water or not?|Does {x} live under water?|Is water where {x} lives?
        |Is {x} a thing that lives in water?
    """,
    "wheels?": """
        Are there wheels on {x}?|Does {x} have any wheels?|Does {x} have wheels or not?|Does {x} run on wheels?
        |Is {x} a thing with wheels?|Is {x} something with wheels?|Has {x} wheels?|Is {x} on wheels?
        |Is {x} equipped with wheels?|Can you see wheels on {x}?|Do you see wheels on {x}?
    """,
    "shape?": """
        Is {x} {k}?|Is {x} really {k}?|Is {x} {k} or not?|Does {x} look like {k}?|Is {k} what {x} is?
        |Does {x} have the form of {k}?|Is the shape of {x} {k}?|Would you call {x} {k}?|Is the {c} figure {k}?
        |Is the form of {x} {k}?
    """,
    "shape of two": """
        Is {x} {k} or {l}?|What is {x}, {k} or {l}?|{x}: {k} or {l}?|Would you call {x} {k} or {l}?
        |Does {x} look like {k} or {l}?|Which is {x}, {k} or {l}?
    """,
    "and": """
        And what about {x}?|How about {x}?|And how about {x}?|Now {x}?|Now {x}.|And now {x}?|And {x} then?
        |What of {x}?|Same question for {x}.|The same for {x}?|The same question for {x}, please.|So what about {x}?
        |{x}?|And for {x}?|What can you say about {x}?|OK, and {x}?|Then what about {x}?|What about {x} then?
    """,
    "else": """
        What else?|And what else?|What else is there?|What else can you see?|What else do you see?|Anything else?
        |Is there anything else?|Are there other things?|Are there any other things?|Which other things are there?
        |What else is in the picture?|What other things are there?|Anything else in the picture?
        |Do you see anything else?|Can you see anything else?|What else does the picture show?|And besides it?
        |What is there besides it?|What other things can you see?
    """,
    "and colour": """
        And its colour?|And the colour?|And what colour?|And its color?|What colour?|And the color?|Its colour?
        |In what colour?|What about its colour?|What about the colour?|So what colour is it?|Which colour?
    """,
    "and size": """
        And its size?|And the size?|What size?|How big?|And how big?|Large or small?|Big or small?
        |What about its size?|So is it big or little?|What about the size?
    """,
    "and where": """
        And where?|Where?|Where exactly?|And its place?|And its position?|And the position?|What about its position?
        |So where is it?|Whereabouts?|In which place?
    """,
    "and kind": """
        And its kind?|What kind of thing?|And what kind of thing?|What sort of thing?|And what category?
        |What about its kind?|So what kind of thing is it?
    """,
    "count?": """
        Do you see {n}?|Can you see {n}?|{v} {n} here?|{v} exactly {n}?|{v} {n} or not?|Does the picture show {n}?
        |{v} really {n}?
    """,
}
