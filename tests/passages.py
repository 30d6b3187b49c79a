"""Five passages of about 120 words on different subjects, written to be read aloud (no digits: a recogniser would
write them its own way)."""

PASSAGES = {
    "harbour": (
        "The first boats came in before dawn, and only the gulls seemed to notice. By eight the whole harbour was "
        "awake: engines coughed, ropes slapped the quay, and somebody was already frying fish. My grandfather never "
        "hurried. He would walk the length of the pier with his hands behind his back, look at every hull, and say "
        "nothing at all. When he came back he knew who had been lucky and who had not. The sea tells you, he said, "
        "if you look at the ropes. I have looked at ropes for thirty years now, and the sea has told me very little. "
        "But I still walk the pier every morning, slowly, and I still say nothing."
    ),
    "bread": (
        "Good bread needs four things and most kitchens have only three of them. Flour, water and salt are easy. The "
        "fourth is patience, and you cannot buy it in a shop. Mix the dough in the evening, cover the bowl with a wet "
        "cloth, and leave it alone until the morning. It will be ugly. It will stick to your fingers and to the table. "
        "Fold it a few times, shape it into a ball, and let it rest once more while the oven gets as hot as it can. "
        "Bake it dark. A pale loaf is a sad loaf, soft on the outside and sour within. Then comes the hardest part of "
        "all: wait an hour before you cut it."
    ),
    "stars": (
        "On a clear night, far from any town, you can see about three thousand stars with your own eyes. Almost all of "
        "them are brighter than our sun, and nearly all of them are close by, as such things go. The light that you "
        "see left them years ago, in some cases before you were born. The faint band that crosses the sky is our own "
        "galaxy, seen from the inside, like a forest seen by somebody who stands among the trees. People have named "
        "its patterns after hunters, animals and kitchen tools. None of those names means anything to the stars. But "
        "they helped sailors to find their way home, and that is reason enough to keep them."
    ),
    "office": (
        "Thank you all for joining on such short notice. I will keep this brief, because I know that many of you have "
        "another meeting in half an hour. The new release went out last night, and so far the numbers look good. "
        "Fewer people are calling the support desk, and the pages load faster than they did before. There is one "
        "problem that we have not solved: customers in the north still wait too long for their first answer. The team "
        "believes that the cause is an old switch, and they will replace it on Thursday evening. If anything goes "
        "wrong, please write to the usual address. Are there any questions before we look at the plan for spring?"
    ),
    "river": (
        "The river begins as a spring under a flat stone, no wider than a child's hand. For the first mile you can "
        "step across it without getting wet. Then it meets a second stream, and a third, and soon there are willows "
        "on both banks and cattle in the shallow places. Below the old mill it turns brown and slow. Boats are tied "
        "there in summer, painted in colours that nobody would choose for a house. By the time it reaches the city it "
        "is as broad as a market square, and it carries barges full of gravel and glass. It passes under eleven "
        "bridges. Nobody on any of them is thinking of a flat stone, or of how small a thing can be when it starts."
    ),
}
