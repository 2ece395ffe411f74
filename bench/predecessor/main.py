"""The predecessor, rebuilt from what is known of it: FastAPI, SQLAlchemy 2 (async) on asyncpg.

Written as its libraries' documentation recommends, and not slowed down on purpose: no refresh of
what was just inserted, and one transaction per request.
"""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from pydantic import BaseModel, ConfigDict
from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(
    os.environ["DATABASE_URL"], pool_size=int(os.environ["DATABASE_POOL_SIZE"]), max_overflow=0
)
Session = async_sessionmaker(engine, expire_on_commit=False)
users_created = Counter("users_created_total", "Total number of users created")
posts_created = Counter("posts_created_total", "Total number of posts created")


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str]
    created_time: Mapped[datetime] = mapped_column(default=now)


class Post(Base):
    __tablename__ = "posts"
    post_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    content: Mapped[str]
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"))
    created_time: Mapped[datetime] = mapped_column(default=now)


class NewUser(BaseModel):
    name: str


class NewPost(BaseModel):
    user_id: int
    content: str


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str
    created_time: datetime


class PostOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    post_id: int
    content: str
    user_id: int
    created_time: datetime


async def session() -> AsyncIterator[AsyncSession]:
    async with Session() as opened:
        yield opened


Database = Annotated[AsyncSession, Depends(session)]
app = FastAPI()


@app.post("/users", status_code=201, response_model=UserOut)
async def create_user(new: NewUser, database: Database) -> User:
    user = User(name=new.name)
    database.add(user)
    await database.commit()
    users_created.inc()
    return user


@app.get("/users/{user_id}", response_model=UserOut)
@app.get("/user/{user_id}", response_model=UserOut)
async def read_user(user_id: int, database: Database) -> User:
    user = await database.get(User, user_id)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


@app.post("/posts", status_code=201, response_model=PostOut)
async def create_post(new: NewPost, database: Database) -> Post:
    if await database.get(User, new.user_id) is None:
        raise HTTPException(404, "User not found")
    post = Post(content=new.content, user_id=new.user_id)
    database.add(post)
    await database.commit()
    posts_created.inc()
    return post


@app.get("/posts/{post_id}", response_model=PostOut)
async def read_post(post_id: int, database: Database) -> Post:
    post = await database.get(Post, post_id)
    if post is None:
        raise HTTPException(404, "Post not found")
    return post


@app.get("/metrics")
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
