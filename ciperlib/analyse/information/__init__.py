"""What does the class add to knowing the transformation?"""
