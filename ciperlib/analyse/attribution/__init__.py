"""Where does it look? Saliency maps, and experiments that test them."""
