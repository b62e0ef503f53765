"""What does a transformation do to h: is it lost, or only re-encoded?"""
