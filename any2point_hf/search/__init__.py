"""Which clouds are like this one?"""
