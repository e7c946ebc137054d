// Stands for decoders that the page never asks for.
export default class {
  static fromConfig() {
    throw new Error("this codec is not part of psc-archive's build of NiiVue");
  }
}
